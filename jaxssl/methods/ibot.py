"""iBOT (arXiv 2111.07832): DINO on class tokens, and the same of hidden patches, whose words a slow copy of the network that sees the whole crop says.

As DINOv2, whose machinery this is, without KoLeo and Sinkhorn: one head for class tokens and patches, a center of each.
Differs from the official code (bytedance/ibot, main_ibot.py): exactly half of the crops are masked, to shares that lie evenly in the range, where it draws both for each crop
by itself; the center of patches is that of the hidden ones, where it takes all patches, which its head then has to see.

Expected: ViT-S/16, ImageNet, batch 1024, 800 epochs of 2 + 10 crops: 75.2 % kNN, 77.9 % linear; ViT-B/16, 400 epochs: 77.1 and 79.5 % (official README).
"""
from jaxssl.methods import dinov2
from jaxssl.methods.base import Method
from jaxssl.methods.dinov2 import sized, unread  # noqa: F401: its keys are chosen and turned off alike


def make(*, encoder, net, batch_size, examples, total, duration, student_temp=0.1, teacher_temp=0.07, teacher_temp_start=0.04, teacher_temp_warmup="30_epochs", tau=0.996,
         center_momentum=0.9, prototypes=8192, hidden=2048, bottleneck=256, layers=3, norm_last_layer=True, separate=False, patch_weight=1.0, patch_mean="crops",
         mask_share=0.5, mask_ratios=(0.1, 0.5), mask_shape="block", mask_smallest=16, mask_exact=False, mask_groups=1) -> Method:
    """iBOT. Args: as those of `dinov2.make`; mask_smallest: the square of a third of the grid's side, 16 of 14 × 14 patches."""
    return dinov2.make(encoder=encoder, net=net, batch_size=batch_size, examples=examples, total=total, duration=duration, student_temp=student_temp,
                       teacher_temp=teacher_temp, teacher_temp_start=teacher_temp_start, teacher_temp_warmup=teacher_temp_warmup, tau=tau,
                       center_momentum=center_momentum, prototypes=prototypes, hidden=hidden, bottleneck=bottleneck, layers=layers, norm_last_layer=norm_last_layer,
                       separate=separate, patch_weight=patch_weight, patch_mean=patch_mean, mask_share=mask_share, mask_ratios=mask_ratios, mask_shape=mask_shape,
                       mask_smallest=mask_smallest, mask_exact=mask_exact, mask_groups=mask_groups, koleo=0.0)
