"""timm's ResNets, vision transformers and ConvNeXts: config.json and model.safetensors, which `timm.create_model("local-dir:…")` opens with the right preprocessing."""
import json
import math
from pathlib import Path

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.encoder.formats import arrays, convnexts, efficientnets, families, names, resnets, torchvision, vits

# of vision transformers: names of the network itself, and those that a file may have beside it: classifiers, projectors, MAE's decoder, masks
BODY = r"(patch_embed|blocks|norm|norm_pre|fc_norm|cls_token|dist_token|pos_embed|reg_token|rope_embed|storage_tokens|attn_pool|rel_pos_bias|local_cls_norm)\b"
KNOWN = r"mask_token|masked_embed|rope_embed\.periods|blocks\.\d+\.attn\.qkv\.bias_mask"
# timm's vision transformers by name and patch, at 224 pixels; those of 384 too
PATCHES = {"vit_tiny": (16,), "vit_small": (16, 8, 32), "vit_base": (16, 8, 32), "vit_large": (14, 16, 32), "vit_huge": (14,)}
LARGER = (("vit_tiny", 16), ("vit_small", 16), ("vit_small", 32), ("vit_base", 16), ("vit_base", 32), ("vit_large", 16), ("vit_large", 32))


def transformer(module) -> dict[str, names.Tensor]:
    return vits.table(module, vits.TIMM, {"pos": (vits.to_timm(module), vits.from_timm(module))})


def constants(module, size: int) -> dict[str, np.ndarray]:
    """Fixed positions, which timm has as a learned table."""
    return {vits.TIMM.tokens["pos"]: vits.to_timm(module)(vits.computed(module, size))} if module.positions == "sincos" else {}


SIDES = {resnets: torchvision.SIDES[resnets]._replace(layout="timm"),
         vits: names.Side("timm", "patch_embed.proj.weight", BODY, KNOWN, transformer, vits.canonical, constants=constants),
         convnexts: convnexts.side("timm"), efficientnets: efficientnets.side()}


def table(module) -> dict[str, names.Tensor]:
    return SIDES[families.of(module)].table(module)


def write(encoder, folder: Path) -> None:
    stated = config(encoder)
    families.write(encoder, folder, SIDES)
    (folder / "config.json").write_text(json.dumps(stated, indent=1))


def config(encoder) -> dict:
    """timm's config.json: architecture, arguments, preprocessing. Raises: UserError when timm has no such network."""
    p, own = encoder.preprocessing, {resnets: resnet, vits: vision_transformer, convnexts: convnext}[families.of(encoder.module)](encoder)
    view = {"input_size": [3, p["size"], p["size"]], "interpolation": p["interpolation"], "crop_pct": crop_pct(p["size"], p["resize"]),
            "crop_mode": "squash" if p.get("squash") else "center",
            "mean": list(p["mean"]), "std": list(p["std"]), "num_classes": 0}
    return {"num_classes": 0, "num_features": encoder.width, **own, "pretrained_cfg": {**view, **own["pretrained_cfg"]}}


def resnet(encoder) -> dict:
    """Architecture, pooling and arguments of a ResNet."""
    m, name = encoder.module, encoder.config["model"]["name"]
    narrow = m.stem == "imagenet" and m.bn_eps == 1e-5
    torch = "torchvision, " if len(m.depths) == 4 else ""
    for wrong, what in ((m.stem != "imagenet", f"the stem {m.stem!r} ({models.resnet.STEMS[m.stem]})"), (m.width != 64, f"a first stage of {m.width} channels"),
                        (len(m.depths) != 4, f"{len(m.depths)} stages"), (m.bn_eps != 1e-5, f"a batch norm epsilon of {m.bn_eps}")):
        if wrong:
            raise UserError(f"timm's ResNets cannot have {what}; use --format {'transformers, ' if narrow else ''}{torch}onnx, stablehlo or safetensors")
    known = name in resnets.PLAIN and m.depths == models.resnet.LAYERS[name][1]
    return {"architecture": "resnet18" if name == "resnet10" else name, "global_pool": "avg", "model_args": {} if known else {"layers": list(m.depths)},
            "pretrained_cfg": {"fixed_input_size": False, "pool_size": [-(-encoder.preprocessing["size"] // 32)] * 2, "first_conv": "conv1", "classifier": "fc"}}


def vision_transformer(encoder) -> dict:
    """Architecture, pooling and arguments of a vision transformer: a name that timm has, and every argument in which ours may differ from it."""
    m, size = encoder.module, encoder.preprocessing["size"]
    learned = m.positions == "learned"
    moving = learned and m.resize == "antialias"                                   # timm interpolates by that kernel, and no other
    for wrong, what in ((m.eps != 1e-6, f"a layer norm epsilon of {m.eps:g}"), (m.positions == "rope", "rotary positions like these"),
                        (learned and size != m.image and not moving, f"positions of {m.image} pixels interpolated by {m.resize!r} to {size}")):
        if wrong:
            also = "transformers, " if m.eps != 1e-6 and m.positions != "rope" else ""
            raise UserError(f"timm's vision transformers cannot have {what}; use --format {also}stablehlo or safetensors")
    image = m.image if learned else size
    prefixed = vits.embedded(m, encoder.variables["params"]["encoder"]["pos"]) if learned else not m.registers
    ratio = 4.0 if m.ffn == "mlp" else gate_ratio(m.width, models.transformer.swiglu_width(m.width))
    return {"architecture": architecture(encoder.config["model"].get("name", "vit_small"), m, image), "global_pool": {"cls": "token", "mean": "avg"}[m.pool],
            "model_args": {"img_size": image, "patch_size": m.patch, "in_chans": m.channels, "embed_dim": m.width, "depth": m.depth, "num_heads": m.heads, "mlp_ratio": ratio,
                           "qk_norm": m.qk_norm, "init_values": m.layer_scale or None, "class_token": m.cls, "reg_tokens": m.registers,
                           "no_embed_class": not prefixed, "dynamic_img_size": moving, "global_pool": {"cls": "token", "mean": "avg"}[m.pool], "fc_norm": False},
            "pretrained_cfg": {"fixed_input_size": not moving, "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head"}}


def convnext(encoder) -> dict:
    """Architecture, pooling and arguments of a ConvNeXt."""
    m = encoder.module
    for wrong, what in ((len(m.depths) != 4, f"{len(m.depths)} stages"), (m.eps != 1e-6, f"a layer norm epsilon of {m.eps:g}")):
        if wrong:
            raise UserError(f"timm's ConvNeXts cannot have {what}; use --format stablehlo or safetensors")
    return {"architecture": encoder.config["model"]["name"], "global_pool": "avg",
            "model_args": {"depths": list(m.depths), "dims": [m.width * 2**i for i in range(4)], "ls_init_value": m.layer_scale or None},
            "pretrained_cfg": {"fixed_input_size": False, "pool_size": [-(-encoder.preprocessing["size"] // 32)] * 2, "first_conv": "stem.0", "classifier": "head.fc"}}


def architecture(name: str, module, image: int) -> str:
    """timm's name of the nearest vision transformer; only one of them has a SwiGLU, whose kind an argument cannot state."""
    if module.ffn == "swiglu":
        return "vit_giant_patch14_dinov2"
    name = name if name in PATCHES else "vit_large"
    patch = module.patch if module.patch in PATCHES[name] else PATCHES[name][0]
    return f"{name}_patch{patch}_{384 if image == 384 and (name, patch) in LARGER else 224}"


def gate_ratio(width: int, hidden: int) -> float:
    """The mlp_ratio for which int(width * ratio) is twice `hidden`, gate and value together."""
    ratio = 2 * hidden / width
    while int(width * ratio) < 2 * hidden:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def crop_pct(size: int, resize: int) -> float:
    """The share of the resized side that is kept: a float for which timm's floor(size / crop_pct) and transformers' int(size / crop_pct) give `resize` exactly."""
    share = size / resize
    while math.floor(size / share) < resize:
        share = math.nextafter(share, 0.0)
    return share


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that makes `model` and `transform` of the folder, and code that makes `features` [B, D] of `images` [B, 3, H, W]."""
    return (f"import timm\nimport torch\n\nmodel = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval()\n"
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)     # of a PIL image",
            "with torch.inference_mode():\n    features = model(images)")


def feed(x: np.ndarray, pixels: list):
    return arrays.tensor(x)


def view(scope: dict, image: np.ndarray) -> np.ndarray:
    """What timm makes of a uint8 image [h, w, 3] with the transform of `usage`: [size, size, 3]."""
    return scope["transform"](arrays.picture(image)).numpy().transpose(1, 2, 0)
