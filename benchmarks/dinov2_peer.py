"""One training step of facebookresearch/dinov2's `SSLMetaArch` on one device, driven from outside: what stands in for xFormers and FSDP, and the step itself.

Their files are read from a checkout, none is changed: `SSLMetaArch.forward_backward`, backbones, heads, losses, collation of masks and parameter groups are theirs, and a step
does what `train/train.py` does (rates, gradient set to None, loss and gradient, clipping of each network, AdamW, teacher, the losses read by the host).
xFormers: attention of crops that lie one behind the other is `scaled_dot_product_attention` for each size, all its crops at once; gathering and adding of rows are PyTorch's.
FSDP: on one device it would keep float32 parameters and compute with a copy in the narrower type, cast in each forward pass of a network. `Narrow` does that and no more.
"""
import contextlib
import importlib
import itertools
import sys
import types
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Narrow(nn.Module):
    """A network whose parameters stay float32 and are cast to `dtype` in each forward pass, as FSDP's MixedPrecision(param_dtype) has it."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self._fsdp_wrapped_module, self.dtype = network, dtype             # the name that their parameter groups know

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_fsdp_wrapped_module"), name)

    def forward(self, *args, **kwargs):
        network = self._fsdp_wrapped_module
        return torch.func.functional_call(network, {name: p.to(self.dtype) for name, p in network.named_parameters()}, args, kwargs)

    @property
    def params(self):
        return list(self.parameters())

    def clip_grad_norm_(self, most):
        return nn.utils.clip_grad_norm_(self.parameters(), most)


class BlockDiagonalMask:
    """Which rows of sequences that lie one behind the other belong together: (number, length) of each run of equal lengths."""

    def __init__(self, runs):
        self.runs, self._batch_sizes = runs, None

    @classmethod
    def from_seqlens(cls, lengths):
        return cls([(len(list(run)), length) for length, run in itertools.groupby(lengths)])

    @classmethod
    def from_tensor_list(cls, tensors):
        return cls([tuple(t.shape[:2]) for t in tensors]), torch.cat([t.reshape(1, -1, *t.shape[2:]) for t in tensors], 1)

    def split(self, x):
        parts = x.split([number * length for number, length in self.runs], 1)
        return [part.reshape(number, length, *x.shape[2:]) for part, (number, length) in zip(parts, self.runs)]


def memory_efficient_attention(q, k, v, attn_bias=None):
    """Attention of [B, N, heads, C], or with a mask of [1, N, heads, C] within its sequences."""
    if attn_bias is None:
        return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    parts = [memory_efficient_attention(*each) for each in zip(*(attn_bias.split(x) for x in (q, k, v)))]
    return torch.cat([part.reshape(1, -1, *q.shape[2:]) for part in parts], 1)


def scaled_index_add(x, index, source, scaling, alpha=1.0):
    return torch.index_add(x, 0, index, source * scaling, alpha=alpha)


def index_select_cat(sources, indices):
    return torch.cat([source[index].flatten() for source, index in zip(sources, indices)])


def stand_ins(checkout: str) -> None:
    """Makes `dinov2.*` importable from a checkout without xFormers, fvcore and their data loaders."""
    sys.path.insert(0, checkout)

    def module(name, **contents):
        sys.modules[name] = found = types.ModuleType(name)
        vars(found).update(contents)
        return found

    fmha = module("xformers.ops.fmha", BlockDiagonalMask=BlockDiagonalMask)
    ops = module("xformers.ops", fmha=fmha, memory_efficient_attention=memory_efficient_attention, unbind=torch.unbind, scaled_index_add=scaled_index_add,
                 index_select_cat=index_select_cat)
    module("xformers", ops=ops, __path__=[])
    for name in ("train", "data"):                                          # packages whose own imports are of the trainer and of data sets
        module(f"dinov2.{name}", __path__=[str(Path(checkout, "dinov2", name))])
    module("dinov2.fsdp", ShardedGradScaler=None, get_fsdp_modules=lambda network: [network] if isinstance(network, Narrow) else [], reshard_fsdp_model=lambda network: None,
           get_fsdp_wrapper=lambda config, modules_to_wrap=(): lambda network: Narrow(network, getattr(torch, config.mixed_precision.param_dtype)))


class Keys(dict):
    """A config whose keys are attributes, as OmegaConf's are."""
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def config_of(checkout: str, overrides: dict, dtype: str) -> Keys:
    """ssl_default_config.yaml with train/vitl16_short.yaml over it, `overrides` ("student.arch": …) over that, and all networks in `dtype`."""
    import yaml

    def keys(value):
        return Keys({k: keys(v) for k, v in value.items()}) if isinstance(value, dict) else value

    def merged(old, new):
        return {**old, **{k: merged(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()}}

    files = [yaml.safe_load(Path(checkout, "dinov2/configs", name).read_text()) for name in ("ssl_default_config.yaml", "train/vitl16_short.yaml")]
    config = keys(merged(*files))
    for path, value in overrides.items():
        section, _, key = path.rpartition(".")
        config[section][key] = value
    config.compute_precision.grad_scaler = dtype == "float16"
    for side, part in itertools.product(("student", "teacher"), ("backbone", "dino_head", "ibot_head")):
        config.compute_precision[side][part].mixed_precision.param_dtype = dtype
    return config


def prepared(checkout: str, overrides: dict, batch: int, device: torch.device, dtype: str):
    """(step, network): step() trains on the same crops of noise and the same masks, which lie on the device, and gives the losses as numbers."""
    stand_ins(checkout)
    if device.type == "cpu":
        torch.Tensor.cuda = lambda self, **_: self
    arch = importlib.import_module("dinov2.train.ssl_meta_arch")
    collate, masking = importlib.import_module("dinov2.data.collate"), importlib.import_module("dinov2.data.masking")
    # Their vision_transformer has vit_small to vit_giant2; a smaller one, for tests, is made of the same class.
    vits = importlib.import_module("dinov2.models.vision_transformer")
    vits.vit_test = lambda patch_size=16, num_register_tokens=0, **kw: vits.DinoVisionTransformer(
        patch_size=patch_size, embed_dim=64, depth=2, num_heads=1, mlp_ratio=4, block_fn=lambda **b: vits.Block(attn_class=vits.MemEffAttention, **b),
        num_register_tokens=num_register_tokens, **kw)
    config = config_of(checkout, overrides, dtype)
    torch.manual_seed(0)
    with contextlib.redirect_stdout(sys.stderr):
        model = arch.SSLMetaArch(config).to(device)
        model.prepare_for_distributed_training()
    model.need_to_synchronize_fsdp_streams = False
    model.train()
    optimizer = torch.optim.AdamW(model.get_params_groups(), betas=(config.optim.adamw_beta1, config.optim.adamw_beta2))
    size, small, number = config.crops.global_crops_size, config.crops.local_crops_size, config.crops.local_crops_number
    grid = size // config.student.patch_size
    samples = [({"global_crops": [torch.randn(3, size, size) for _ in range(2)], "local_crops": [torch.randn(3, small, small) for _ in range(number)]}, None) for _ in range(batch)]
    images = collate.collate_data_and_cast(samples, config.ibot.mask_ratio_min_max, config.ibot.mask_sample_probability, getattr(torch, dtype), n_tokens=grid**2,
                                           mask_generator=masking.MaskingGenerator(input_size=(grid, grid), max_num_patches=0.5 * grid**2))
    images = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in images.items()}

    def step():
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 1e-4 * group["lr_multiplier"], 0.04 * group["wd_multiplier"]
        optimizer.zero_grad(set_to_none=True)
        losses = model.forward_backward(images, teacher_temp=0.04)
        for network in model.student.values():
            network.clip_grad_norm_(config.optim.clip_grad)
        optimizer.step()
        model.update_teacher(0.992)
        return {name: value.item() for name, value in losses.items()}

    return step, model
