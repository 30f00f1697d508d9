"""The family of vision transformers: our names against timm's and transformers', and what shapes and config files tell of an architecture.

timm's names are those of DINO, DINOv2, DeiT, MAE and MoCo v3. Blocks lie in one array a tensor here, `[L, …]`, and a tensor a block there. Positions have three
forms: with the class token's (ours, and everybody's without registers; DINOv2's files), of patches alone (timm's no_embed_class), and with
zeros for registers too.
"""
import inspect
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.models import positions, vit
from jaxssl.encoder.formats import names

WORD, MODULE, NAMES = "vision transformer", vit.ViT, vit.NAMES
LAYOUTS = ("timm", "transformers", "dinov3")
FORMATS = ("timm", "transformers", "safetensors", "stablehlo")
UNSEEN = {"heads": ("{} heads", "{}"), "eps": ("a layer norm epsilon of {:g}", "{:g}"), "pool": ("the feature {!r}", "{!r}"), "resize": ("positions interpolated by {!r}", "{!r}")}
OPTIONAL = ("params/encoder/mask",)
LEAVES = {"kernel": ".weight", "scale": ".weight", "bias": ".bias", "": ""}


class Words(NamedTuple):
    """block: what stands before a name within a block. tokens, layers: our names → theirs, outside of blocks and in them; three names are q, k and v."""
    block: str
    tokens: dict[str, str]
    layers: dict[str, str | tuple[str, ...]]


TIMM = Words("blocks.{}.", {"cls": "cls_token", "pos": "pos_embed", "registers": "reg_token", "mask": "mask_token", "patch": "patch_embed.proj", "norm": "norm"},
             {"norm1": "norm1", "qkv": "attn.qkv", "q_norm": "attn.q_norm", "k_norm": "attn.k_norm", "proj": "attn.proj", "scale1": "ls1.gamma", "norm2": "norm2",
              "fc1": "mlp.fc1", "fc2": "mlp.fc2", "w12": "mlp.fc1", "w3": "mlp.fc2", "scale2": "ls2.gamma"})
_TOKENS = {"cls": "embeddings.cls_token", "pos": "embeddings.position_embeddings", "registers": "embeddings.register_tokens", "mask": "embeddings.mask_token",
           "patch": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
VIT = Words("encoder.layer.{}.", _TOKENS, {"norm1": "layernorm_before", "qkv": _QKV, "proj": "attention.output.dense", "norm2": "layernorm_after",
                                           "fc1": "intermediate.dense", "fc2": "output.dense"})
DINOV2 = Words("encoder.layer.{}.", _TOKENS, {"norm1": "norm1", "qkv": _QKV, "proj": "attention.output.dense", "scale1": "layer_scale1.lambda1", "norm2": "norm2",
                                              "fc1": "mlp.fc1", "fc2": "mlp.fc2", "w12": "mlp.weights_in", "w3": "mlp.weights_out", "scale2": "layer_scale2.lambda1"})

DINOV3 = Words("layer.{}.", {"cls": "embeddings.cls_token", "registers": "embeddings.register_tokens", "mask": "embeddings.mask_token", "patch": "embeddings.patch_embeddings",
                             "norm": "norm"},
               {"norm1": "norm1", "qkv": tuple(f"attention.{name}_proj" for name in "qkv"), "proj": "attention.o_proj", "scale1": "layer_scale1.lambda1", "norm2": "norm2",
                "fc1": "mlp.up_proj", "fc2": "mlp.down_proj", "scale2": "layer_scale2.lambda1"})
PERIODS = "rope_embed.periods"              # of DINOv3's rotary positions, in Meta's files
BASE = 100.0                                # of all that were released


def is_dinov2(module) -> bool:
    """Whether transformers' class for it is Dinov2's, not ViT's: it has what only that one has."""
    return bool(module.layer_scale or module.registers or module.ffn == "swiglu")


def layers(module) -> dict[str, tuple[str, ...]]:
    """Of each block, the names of its layers and of their arrays; "" is an array of its own."""
    dense, norm = ("kernel", "bias"), ("scale", "bias")
    feed = ("fc1", "fc2") if module.ffn == "mlp" else ("w12", "w3")
    scales = {"scale1": ("",), "scale2": ("",)} if module.layer_scale else {}
    heads = {"q_norm": norm, "k_norm": norm} if module.qk_norm else {}
    return {"norm1": norm, "norm2": norm, "qkv": dense, "proj": dense, **dict.fromkeys(feed, dense), **heads, **scales}


def table(module, words: Words, turns: dict[str, tuple]) -> dict[str, names.Tensor]:
    """Their names to ours. turns: of tokens that lie otherwise there, as in `names.Tensor`."""
    tokens = {"cls": module.cls, "pos": module.positions == "learned", "registers": module.registers, "mask": module.mask_token}
    keyless = (lambda bias: bias, without_keys)
    found = {words.tokens[token]: names.Tensor(f"params/encoder/{token}", turns=turns.get(token)) for token, there in tokens.items() if there}
    patch, norm = words.tokens["patch"], words.tokens["norm"]
    found |= {f"{patch}.weight": names.Tensor("params/encoder/patch/kernel", "conv"), f"{patch}.bias": names.Tensor("params/encoder/patch/bias")}
    found |= {f"{norm}{LEAVES[leaf]}": names.Tensor(f"params/encoder/norm/{leaf}") for leaf in ("scale", "bias")}
    for i in range(module.depth):
        folder, layer = ("blocks", i) if module.scan else (f"block{i}", None)
        for name, leaves in layers(module).items():
            theirs = words.layers[name]
            several = theirs if isinstance(theirs, tuple) else (theirs,)
            for part, their in enumerate(several):
                for leaf in leaves:
                    held = not module.key_bias and (name, leaf) == ("qkv", "bias")
                    if held and (part, len(several)) == (1, 3):                     # keys have none there; ours stays zero
                        continue
                    ours = f"params/encoder/{folder}/{name}" + (f"/{leaf}" if leaf else "")
                    found[words.block.format(i) + their + LEAVES[leaf]] = names.Tensor(
                        ours, "matrix" if leaf == "kernel" else "same", layer, (part, len(several)) if len(several) > 1 else None,
                        keyless if held and len(several) == 1 else None)
    return found


def without_keys(bias: np.ndarray) -> np.ndarray:
    """A bias of queries, keys and values [3 D] with zeros for keys."""
    return bias * np.repeat(np.float32([1, 0, 1]), len(bias) // 3)


def canonical(name: str) -> str:
    """timm's name of a tensor: FSDP's chunk of blocks left out ("blocks.0.3.norm1.weight"), DINOv2's registers and SwiGLU as timm has them."""
    name = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name)
    return re.sub(r"^(blocks\.\d+\.mlp\.)w(12|3)\.", lambda m: f"{m[1]}fc{1 if m[2] == '12' else 2}.", re.sub("register_tokens|storage_tokens", "reg_token", name))


def embedded(module, pos: np.ndarray) -> bool:
    """Whether timm's table has places for the tokens before the patches: with registers only where the class token's is not zero."""
    return bool(module.cls and not (module.registers and not pos[:, 0].any()) or not module.registers)


def to_timm(module):
    """Our positions `[1, 1 + N, D]` as timm's."""
    def turn(pos):
        if not module.registers or not module.cls:
            return pos
        nothing = np.zeros((1, module.registers, pos.shape[-1]), pos.dtype)
        return np.concatenate([pos[:, :1], nothing, pos[:, 1:]], 1) if embedded(module, pos) else pos[:, 1:]
    return turn


def from_timm(module):
    """The inverse, for each of the forms. Raises: UserError when registers have positions."""
    patches = (module.image // module.patch) ** 2
    def turn(pos):
        extra = (pos.shape[1] if pos.ndim == 3 else 0) - patches
        if module.cls and extra == 0:
            return np.concatenate([np.zeros_like(pos[:, :1]), pos], 1)
        if module.registers and extra == module.cls + module.registers:
            if pos[:, module.cls:extra].any():
                raise UserError("these registers have positions, which they do not have here; add them to the registers themselves, and leave zeros")
            return np.concatenate([pos[:, :module.cls], pos[:, extra:]], 1)
        return pos
    return turn


def computed(module, size: int) -> np.ndarray:
    """The fixed positions `[1, 1 + N, D]` of a module for images of this side, as a learned table would hold them."""
    places = positions.sincos((size // module.patch,) * 2, module.width)
    return np.concatenate([np.zeros((int(module.cls), module.width), np.float32), places])[None]


def prefixes(side: names.Side, found: set[str]) -> set[str]:
    """What stands before the names of a vision transformer."""
    usual, around = {name[:-len(side.stem)] for name in found if name.endswith(side.stem)}, table(models.make(name="vit_tiny"), TIMM if side.layout == "timm" else VIT, {})
    return {p for p in usual if sum(p + name in found for name in around if not re.search(r"\d", name)) > 4}


def renamed(found: dict[str, str]) -> dict[str, str]:
    return found


def network(side: names.Side, path: Path, name: str, tensors: dict[str, np.ndarray], stated: dict, told: dict) -> tuple[dict, list[str]]:
    """As `resnets.network`: width, depth, patch, registers and the like from shapes; heads, eps and pool as `told`, as `stated`, or assumed."""
    kernel = tensors[side.stem]
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise UserError(f"{side.stem} of {path} has shape {kernel.shape}; a square patch's projection has four axes, so this is another architecture")
    width, channels, patch, _ = kernel.shape
    words = {"timm": TIMM, "dinov3": DINOV3}.get(side.layout) or (DINOV2 if any("layer_scale1" in n for n in tensors) else VIT)
    begin = re.escape(words.block).replace(r"\{\}", r"(\d+)")
    depth = max((int(match[1]) for match in (re.match(begin, n) for n in tensors) if match), default=-1) + 1
    if not depth:
        raise UserError(f"{path} has a patch projection and no {words.block.format(0)}…, so it is no vision transformer of {side.layout}'s names")
    inner = lambda layer: tensors.get(words.block.format(0) + words.layers.get(layer, "?") + (".weight" if "scale" not in layer else ""))
    token = lambda which: tensors.get(words.tokens[which])
    cls, registers, mask, gate = token("cls") is not None, token("registers"), token("mask"), inner("w12")
    dinov2 = mask is not None and mask.shape == (1, width) or words is DINOV2
    swiglu = gate is not None and inner("w3") is not None and inner("w3").ndim == 2 and gate.shape[0] == 2 * inner("w3").shape[1]
    found = {"patch": patch, "channels": channels, "cls": cls, "registers": 0 if registers is None else registers.shape[1],
             "mask_token": dinov2 and mask is not None or mask is not None and side.layout != "timm" and mask.size == width,
             "layer_scale": 0.0 if inner("scale1") is None else 1e-5, "qk_norm": inner("q_norm") is not None, "ffn": "swiglu" if swiglu else "mlp"}
    found["resize"] = "torch" if dinov2 and not found["registers"] else "antialias"
    rotary = _rotary(path, side, tensors, stated, words)
    found["image"] = patch * _grid(path, None if rotary else token("pos"), cls, found["registers"])
    size = _named(path, name, width, depth)
    said, assumed = {**rotary.pop("told", {}), **_said(stated, found), **told}, []
    found |= rotary
    heads = vit.SIZES[size].heads if vit.SIZES[size].width == width else max(width // 64, 1)
    for key, guess in {"heads": heads, "eps": 1e-5 if rotary else 1e-6, "pool": "cls" if cls else "mean"}.items():
        assumed += [] if key in said else [key]
        found[key] = said.get(key, guess)
    own = vit.SIZES[size]
    found |= {"width": width if width != own.width else 0, "depth": depth if depth != own.depth else 0}
    if found["heads"] == (own.heads if not found["width"] else max(width // 64, 1)):
        found["heads"] = 0
    defaults = {key: p.default for key, p in inspect.signature(vit.make).parameters.items()}
    model = {"name": size, **{key: value for key, value in found.items() if key in ("patch", "image") or value != defaults[key]}}
    return model, [*assumed, *["architecture"] * (not stated.keys() & {"architecture", "model_type"})]


def _rotary(path, side, tensors, stated, words):
    """Of DINOv3's networks what names and shapes tell of positions and keys, and under "told" the heads by Meta's periods; {} of others. Raises: UserError for other periods."""
    if side.layout == "dinov3":
        return {"positions": "rope", "rope_base": float(stated.get("rope_theta", BASE)), "key_bias": words.block.format(0) + words.layers["qkv"][1] + ".bias" in tensors}
    periods = tensors.get(PERIODS)
    if periods is None:
        return {}
    usual = BASE ** (np.arange(periods.size) / periods.size)
    if periods.ndim != 1 or not np.allclose(periods, usual, rtol=1e-2):                # some files round them to bfloat16
        raise UserError(f"the rotary positions of {path} have other periods than those of base {BASE:g} ({PERIODS}), which all of DINOv3's have")
    width = len(tensors[words.tokens["cls"]].ravel()) if words.tokens["cls"] in tensors else tensors[side.stem].shape[0]
    return {"positions": "rope", "key_bias": words.block.format(0) + "attn.qkv.bias_mask" not in tensors, "told": {"heads": width // (4 * periods.size)}}


def _grid(path, pos, cls, registers):
    """How many patches lie along a side, by the number of positions; 14 when there are none, which is told as missing."""
    if pos is None or pos.ndim != 3:
        return 14
    for before in dict.fromkeys((int(cls), 0, cls + registers)):
        side = math.isqrt(max(pos.shape[1] - before, 0))
        if side and side * side == pos.shape[1] - before:
            return side
    raise UserError(f"{path} has {pos.shape[1]} positions, which are no square grid of patches; views are square here")


def _named(path, name, width, depth):
    """The model's name: as given, else that of its width and depth, or the nearest one's. Raises: UserError when the given one has other shapes."""
    if name and vit.SIZES[name][:2] != (width, depth):
        raise UserError(f"{path} has {width} channels and {depth} blocks, which is no {name} (of {vit.SIZES[name].width} and {vit.SIZES[name].depth}); leave out --model")
    return name or min(NAMES, key=lambda n: (abs(math.log(vit.SIZES[n].width / width)), abs(vit.SIZES[n].depth - depth)))


def assumption(model: dict, assumed: Collection[str]) -> str:
    module = models.make(**model, precision="f32")
    words = {"heads": f"{module.heads} heads", "eps": f"layer norms of epsilon {module.eps:g}",
             "pool": f"its feature {'the class token' if module.pool == 'cls' else 'the mean of its patches'}"}
    return f"a plain {model['name']} with {''.join(f'{text}, ' for key, text in words.items() if key in assumed)}norms before attention and MLP, and an exact GELU"


def usual(model: dict, layout: str) -> dict:
    return {"size": model["image"], "interpolation": "bicubic"}


# of timm's arguments, those that shapes or nothing but training show, and the values of the others that ours has
ARCHITECTURE = r"(?:vit|deit|deit3)_(tiny|small|base|large|huge|giant)_patch\d+_(?:reg\d+_)?(\d+|dinov2)"
SHAPES = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes", "in_chans", "class_token", "reg_tokens",
          "no_embed_class", "init_values", "mlp_ratio", "qk_norm",
          "global_pool", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
          "drop_path_rate", "dynamic_img_size", "dynamic_img_pad", "weight_init", "fix_init")
FIXED = {"qkv_bias": True, "proj_bias": True, "pre_norm": False, "final_norm": True, "fc_norm": False, "pool_include_prefix": False, "pos_embed": "learn", "scale_attn_norm": False,
         "scale_mlp_norm": False, "act_layer": "gelu", "norm_layer": "layernorm"}
EPS = {"vit": 1e-12, "vit_mae": 1e-12, "dinov2": 1e-6, "dinov2_with_registers": 1e-6, "dinov3_vit": 1e-5}         # what transformers' classes take where a config.json does not say
TRANSFORMERS = {"hidden_act": "gelu", "qkv_bias": True, "query_bias": True, "value_bias": True, "proj_bias": True, "mlp_bias": True, "use_gated_mlp": False}
READ = f"plain vision transformers alone: timm's vit and deit of NAME_patchN_SIZE with the class token or fc_norm=False, and transformers' {', '.join(EPS)} with GELU"


def differs(stated: dict, name: str) -> list[str]:
    if "model_type" in stated:
        wrong = [] if stated["model_type"] in EPS else [f"model_type {stated['model_type']!r}"]
        return wrong + [f"{key} {stated[key]!r}" for key, ours in TRANSFORMERS.items() if stated.get(key, ours) != ours]
    if "architecture" not in stated:
        return []
    arguments = stated.get("model_args") or {}
    if not re.fullmatch(ARCHITECTURE, str(stated["architecture"])):
        return [f"architecture {stated['architecture']!r}"]
    if not isinstance(arguments, dict):
        return [f"model_args {arguments!r}"]
    wrong = [f"{key} {value!r}" for key, value in arguments.items() if key not in SHAPES and value not in (None, FIXED.get(key, None))]
    pool = _pool(stated, arguments)
    return wrong + ([f"global_pool {pool!r}"] if pool not in ("token", "avg", "") or pool == "avg" and arguments.get("fc_norm") is not False else [])


def _pool(stated, arguments):
    return arguments.get("global_pool", stated.get("global_pool", "token"))


def _said(stated, found):
    """heads, eps and pool by a config.json of timm or transformers."""
    if "model_type" in stated:
        kind = stated["model_type"]
        return {"heads": stated.get("num_attention_heads", 6 if kind == "dinov3_vit" else 12), "eps": stated.get("layer_norm_eps", EPS.get(kind, 1e-12)), "pool": "cls"}
    match, arguments = re.fullmatch(ARCHITECTURE, str(stated.get("architecture"))), stated.get("model_args") or {}
    if not match or not isinstance(arguments, dict):
        return {}
    heads = 16 if match[1] == "giant" and match[2] != "dinov2" else vit.SIZES[f"vit_{match[1]}"].heads
    return {"heads": arguments.get("num_heads", heads), "eps": 1e-6, "pool": {"avg": "mean"}.get(_pool(stated, arguments), "cls" if found["cls"] else "mean")}


def described(model: dict) -> str:
    """A model's config in a few words."""
    extra = [f"width {model['width']}" if model.get("width") else "", f"depth {model['depth']}" if model.get("depth") else "",
             f"{model['registers']} registers" if model.get("registers") else "",
             "swiglu" if model.get("ffn") == "swiglu" else ""]
    return ", ".join([f"{model['name']}, patch {model.get('patch', 16)}, {model.get('image', 224)} px", *filter(None, extra)])


def fitted(found: dict[str, np.ndarray], wanted: dict, module) -> tuple[dict[str, np.ndarray], list[str]]:
    """As `resnets.fitted`: blocks stacked or unstacked as the run has them, and learned positions interpolated to its grid by the kernel of these weights."""
    blocks, said = "params/encoder/blocks/", []
    if module.scan and any(re.match(r"params/encoder/block\d+/", name) for name in wanted):
        whole = {name: a for name, a in found.items() if name.startswith(blocks)}
        found = {n: a for n, a in found.items() if n not in whole} | {f"params/encoder/block{i}/{n[len(blocks):]}": a[i] for n, a in whole.items() for i in range(len(a))}
    elif not module.scan and any(name.startswith(blocks) for name in wanted):
        each = {n: re.match(r"params/encoder/block(\d+)/(.*)", n) for n in found}
        parts = {rest: {int(m[1]): found[n] for n, m in each.items() if m and m[2] == rest} for rest in {m[2] for m in each.values() if m}}
        found = {n: a for n, a in found.items() if not each[n]} | {blocks + rest: np.stack([own[i] for i in range(len(own))]) for rest, own in parts.items()}
    name = "params/encoder/pos"
    if name in found and name in wanted and found[name].shape != wanted[name].shape and found[name].shape[2] == wanted[name].shape[2]:
        old, new = (math.isqrt(a.shape[1] - module.cls) for a in (found[name], wanted[name]))
        if new * new + module.cls == wanted[name].shape[1]:
            table = found[name][0]
            places = np.asarray(positions.resize(jnp.asarray(table[module.cls:]), (new, new), module.resize))
            found = {**found, name: np.concatenate([table[:module.cls], places])[None]}
            said = [f"positions of {old}×{old} patches are interpolated to {new}×{new} by the kernel {module.resize!r} of these weights (models/positions.py)"]
    return found, said
