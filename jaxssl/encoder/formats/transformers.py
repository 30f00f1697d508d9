"""transformers' ResNet, ViT and Dinov2: config.json, preprocessor_config.json and model.safetensors, which `from_pretrained` of their classes opens.

Blocks of its ResNet put the stride on the 3×3 convolution (`downsample_in_bottleneck=False`, ResNet v1.5) as ours do. Its ViT has neither LayerScale
nor registers nor SwiGLU; networks with one of them are Dinov2's, whose class for registers always has LayerScale and a mask token.
"""
import json
import re
from pathlib import Path

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.encoder.formats import arrays, dinov3, families, names, resnets, vits

STEM = "embedder.embedder.convolution.weight"
BODY = r"(embedder|encoder)\."
KNOWN = r"classifier\.1\.(weight|bias)|(.*\.)?" + names.COUNTERS
RESAMPLE = {"bilinear": 2, "bicubic": 3}      # Pillow's numbers


def canonical(name: str) -> str:
    """Without the name of the base model, which classifiers put in front."""
    return name.removeprefix("resnet.")


def place(p: resnets.Place) -> tuple[str, str]:
    if not p.stage:
        unit = "embedder.embedder"
    else:
        block = f"encoder.stages.{p.stage - 1}.layers.{p.block}"
        unit = f"{block}.layer.{p.unit - 1}" if p.unit else f"{block}.shortcut"
    return f"{unit}.convolution", f"{unit}.normalization"


# a name of a state dict in memory since transformers 5, against that of its files
MEMORY = ((r"^layers\.", "encoder.layer."), (r"attention\.q_proj\.", "attention.attention.query."), (r"attention\.k_proj\.", "attention.attention.key."),
          (r"attention\.v_proj\.", "attention.attention.value."), (r"attention\.o_proj\.", "attention.output.dense."))


def original(name: str) -> str:
    """The name in a file of a tensor of a vision transformer, without the name of the base model, which classifiers put in front."""
    short = re.sub(r"^(vit|dinov2|dinov2_with_registers)\.", "", name)
    for pattern, word in MEMORY:
        short = re.sub(pattern, word, short)
    return re.sub(r"\.mlp\.fc(1|2)\.", lambda m: ".intermediate.dense." if m[1] == "1" else ".output.dense.", short) if re.match(r"(vit\.)?layers\.", name) else short


def transformer(module) -> dict[str, names.Tensor]:
    if module.positions == "rope":
        return dinov3.transformer(module)
    words = vits.DINOV2 if vits.is_dinov2(module) else vits.VIT
    mask = (lambda a: a[None], lambda a: a.reshape(1, -1))                          # ViT's [1, 1, D]; Dinov2's is ours
    return vits.table(module, words, {} if vits.is_dinov2(module) else {"mask": mask})


def constants(module, size: int) -> dict[str, np.ndarray]:
    """What their classes always have: a table of positions, factors of branches, and a mask token beside registers."""
    if module.positions == "rope":
        return dinov3.constants(module, size)
    d, words = module.width, vits.DINOV2
    found = {words.tokens["pos"]: vits.computed(module, size)} if module.positions == "sincos" else {}
    if vits.is_dinov2(module) and not module.layer_scale:
        found |= {words.block.format(i) + words.layers[scale]: np.ones(d, np.float32) for i in range(module.depth) for scale in ("scale1", "scale2")}
    if module.registers and not module.mask_token:
        found[words.tokens["mask"]] = np.zeros((1, d), np.float32)
    return found


SIDES = {resnets: names.Side("transformers", STEM, BODY, KNOWN, lambda module: resnets.table(module, place, resnets.TORCH, "conv"), canonical),
         vits: names.Side("transformers", "embeddings.patch_embeddings.projection.weight", r"(embeddings|encoder|layernorm|pooler)\.",
                          r"embeddings\.mask_token|pooler\.dense\.(weight|bias)", transformer, original, constants=constants)}


def table(module) -> dict[str, names.Tensor]:
    return SIDES[families.of(module)].table(module)


def write(encoder, folder: Path) -> None:
    stated = config(encoder)
    families.write(encoder, folder, SIDES)
    (folder / "config.json").write_text(json.dumps(stated, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor(encoder.preprocessing), indent=1))


def config(encoder) -> dict:
    """A config of theirs. Raises: UserError when none can describe the network."""
    return {resnets: resnet, vits: vision_transformer}[families.of(encoder.module)](encoder)


def resnet(encoder) -> dict:
    """A `ResNetConfig`."""
    m = encoder.module
    for wrong, what in ((m.stem != "imagenet", f"the stem {m.stem!r} ({models.resnet.STEMS[m.stem]})"), (m.bn_eps != 1e-5, f"a batch norm epsilon of {m.bn_eps}"),
                        (m.inner != 1, "bottlenecks of twice the width")):
        if wrong:
            raise UserError(f"transformers' ResNet cannot have {what}; use --format torchvision, onnx, stablehlo or safetensors")
    widths = [m.features // 2 ** i for i in reversed(range(len(m.depths)))]
    return {"architectures": ["ResNetModel"], "model_type": "resnet", "num_channels": 3, "embedding_size": m.width, "hidden_sizes": widths,
            "depths": list(m.depths), "layer_type": m.kind, "hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}


def vision_transformer(encoder) -> dict:
    """A `ViTConfig`, `Dinov2Config` or `Dinov2WithRegistersConfig`."""
    m, size = encoder.module, encoder.preprocessing["size"]
    learned, scales = m.positions == "learned", m.registers and m.resize == "antialias"        # with registers, their kernel is our "antialias"
    for wrong, what in ((m.qk_norm, "norms of queries and keys"), (not m.cls, "no class token"),
                        (m.positions == "rope" and m.ffn != "mlp", "rotary positions and a SwiGLU of this width"),
                        (learned and size != m.image and not scales, f"positions of {m.image} pixels interpolated by {m.resize!r} to {size}")):
        if wrong:
            raise UserError(f"transformers' vision transformers cannot have {what}; use --format {'' if m.positions == 'rope' else 'timm, '}stablehlo or safetensors")
    if m.positions == "rope":
        return dinov3.config(m, size)
    kind = "vit" if not vits.is_dinov2(m) else "dinov2_with_registers" if m.registers else "dinov2"
    own = {"vit": {"intermediate_size": 4 * m.width},
           "dinov2": {"mlp_ratio": 4, "layerscale_value": m.layer_scale or 1.0, "use_swiglu_ffn": m.ffn == "swiglu", "use_mask_token": m.mask_token}}
    own["dinov2_with_registers"] = {**own["dinov2"], "num_register_tokens": m.registers}
    own["dinov2_with_registers"].pop("use_mask_token")
    return {"architectures": [CLASSES[kind]], "model_type": kind, "hidden_size": m.width, "num_hidden_layers": m.depth, "num_attention_heads": m.heads, "hidden_act": "gelu",
            "layer_norm_eps": m.eps, "image_size": m.image if learned else size, "patch_size": m.patch, "num_channels": m.channels, "qkv_bias": True, **own[kind]}


CLASSES = {"vit": "ViTModel", "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}


def processor(p: dict) -> dict:
    """An image processor's config: short side to `resize` and centre crop of `size`, or both sides to `size`; normalise."""
    sides = {"height": p["size"], "width": p["size"]}
    return {"image_processor_type": "BitImageProcessor", "do_convert_rgb": True,
            "do_resize": True, "size": sides if p.get("squash") else {"shortest_edge": p["resize"]}, "resample": RESAMPLE[p["interpolation"]],
            "do_center_crop": not p.get("squash"), "crop_size": sides, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": list(p["mean"]), "image_std": list(p["std"])}


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that makes `model` and `processor` of the folder, and code that makes `features` [B, D] of `images` [B, 3, H, W]."""
    m, (name,), options = encoder.module, config(encoder)["architectures"], ""
    features = "model(images).pooler_output.flatten(1)"
    if families.of(m) is vits:
        options = ", add_pooling_layer=False" if name == CLASSES["vit"] else ""
        features = "model(images).last_hidden_state" + ("[:, 0]" if m.pool == "cls" else f"[:, {m.cls + m.registers}:].mean(1)")
    return (f"import torch\nfrom transformers import AutoImageProcessor, {name}\n\nmodel = {name}.from_pretrained({str(folder)!r}{options}).eval()\n"
            f"processor = AutoImageProcessor.from_pretrained({str(folder)!r})        # processor(image, return_tensors='pt').pixel_values",
            f"with torch.inference_mode():\n    features = {features}")


def feed(x: np.ndarray, pixels: list):
    return arrays.tensor(x)


def view(scope: dict, image: np.ndarray) -> np.ndarray:
    """What the folder's image processor makes of a uint8 image [h, w, 3]: [size, size, 3]."""
    return scope["processor"](arrays.picture(image), return_tensors="pt").pixel_values[0].numpy().transpose(1, 2, 0)
