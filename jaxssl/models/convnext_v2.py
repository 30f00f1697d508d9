"""ConvNeXt V2 (Woo et al., arXiv:2301.00808): ConvNeXt with global response normalisation in place of the factors of its branches, made for masked pre-training."""
import flax.linen as nn

from jaxssl.models import convnext
from jaxssl.models.precision import dtype

# Name -> channels of the first stage, which double from stage to stage, and blocks of the four stages (the paper, section 4, and its code).
SIZES = {"convnextv2_atto": (40, (2, 2, 6, 2)), "convnextv2_femto": (48, (2, 2, 6, 2)), "convnextv2_pico": (64, (2, 2, 6, 2)), "convnextv2_nano": (80, (2, 2, 8, 2)),
         "convnextv2_tiny": (96, (3, 3, 9, 3)), "convnextv2_base": (128, (3, 3, 27, 3)), "convnextv2_large": (192, (3, 3, 27, 3)), "convnextv2_huge": (352, (3, 3, 27, 3))}
NAMES = tuple(SIZES)


def make(*, name: str, precision: str, width: int = 0, depths: tuple[int, ...] = (), drop_path: float = 0.0, eps: float = 1e-6, remat: bool = False) -> nn.Module:
    """A ConvNeXt V2; keys as those of `convnext.make`."""
    own, depths = SIZES[name], tuple(depths)
    convnext.check(width=width, depths=depths, drop_path=drop_path, eps=eps)
    return convnext.ConvNeXt(width or own[0], depths or own[1], 0.0, drop_path, eps, remat, dtype(precision), grn=True)
