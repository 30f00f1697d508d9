"""Features of timm's EfficientNet-Lite blocks (timm 1.0.31, torch 2.13) with weights of a rule, as goldens/efficientnet.npz: run it where both are installed.

    PYTHONPATH=. python tests/goldens/make_efficientnet.py

The network is `efficientnet_lite0` of width .25 and blocks (1, 2, 1): stem 8, stages of 8, 8 and 16 channels, 320 at the end; padded as in TensorFlow, norms of epsilon .001.
"""
import functools
from pathlib import Path

import numpy as np
import torch
from timm.layers import get_act_layer
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet

from tests.test_efficientnet import SIDES, drawn, pictures


def main():
    torch.set_num_threads(1)
    net = EfficientNet(decode_arch_def([["ds_r1_k3_s1_e1_c8"], ["ir_r2_k3_s2_e6_c8"], ["ir_r1_k5_s2_e6_c16"]]), num_classes=0, num_features=320, stem_size=8, fix_stem=True,
                       act_layer=get_act_layer("relu6"), norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-3), pad_type="same", round_chs_fn=lambda c: c).eval()
    state = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    net.load_state_dict({name: torch.from_numpy(array) for name, array in drawn(state).items()}, strict=False)
    found = {"names": np.array(sorted(state))}
    for side in SIDES:
        with torch.inference_mode():
            last = net.forward_features(torch.from_numpy(pictures(side).transpose(0, 3, 1, 2).copy()))
        found |= {f"pooled_{side}": last.mean((2, 3)).numpy()[:, ::5], f"map_{side}": last.numpy().transpose(0, 2, 3, 1)[..., ::40]}
    np.savez_compressed(Path(__file__).with_name("efficientnet.npz"), **found)


if __name__ == "__main__":
    main()
