"""transformers' DINOv3: names of a vision transformer with rotary positions, whose keys have no bias. Read as a layout of its own; `transformers` writes it.

Meta's own files have timm's names for what both have (`vits.canonical`), with `storage_tokens`, `rope_embed.periods` and `attn.qkv.bias_mask` beside them.
"""
import re

import numpy as np

from jaxssl.encoder.formats import names, vits

KNOWN = r"embeddings\.(mask_token|register_tokens)"


def original(name: str) -> str:
    """The name in a file: blocks of a state dict in memory lie under the encoder's name."""
    return re.sub(r"^model\.(?=layer\.)", "", name)


def transformer(module) -> dict[str, names.Tensor]:
    return vits.table(module, vits.DINOV3, {"mask": (lambda a: a[None], lambda a: a.reshape(1, -1))})


def constants(module, size: int) -> dict[str, np.ndarray]:
    """What its class always has: factors of branches, a mask token and a tensor of registers, of none too."""
    d, words = module.width, vits.DINOV3
    found = {} if module.layer_scale else {words.block.format(i) + words.layers[scale]: np.ones(d, np.float32) for i in range(module.depth) for scale in ("scale1", "scale2")}
    found |= {} if module.mask_token else {words.tokens["mask"]: np.zeros((1, 1, d), np.float32)}
    return found | ({} if module.registers else {words.tokens["registers"]: np.zeros((1, 0, d), np.float32)})


def config(module, size: int) -> dict:
    """A `DINOv3ViTConfig`."""
    return {"architectures": ["DINOv3ViTModel"], "model_type": "dinov3_vit", "hidden_size": module.width, "intermediate_size": 4 * module.width, "num_hidden_layers": module.depth,
            "num_attention_heads": module.heads, "hidden_act": "gelu", "layer_norm_eps": module.eps, "rope_theta": module.rope_base, "image_size": size,
            "patch_size": module.patch, "num_channels": module.channels, "key_bias": module.key_bias, "layerscale_value": module.layer_scale or 1.0, "use_gated_mlp": False,
            "num_register_tokens": module.registers, "pos_embed_shift": module.rope_shift or None, "pos_embed_jitter": module.rope_jitter if module.rope_jitter != 1 else None,
            "pos_embed_rescale": module.rope_rescale if module.rope_rescale != 1 else None}


SIDES = {vits: names.Side("dinov3", "embeddings.patch_embeddings.weight", r"(embeddings|layer|norm)\.", KNOWN, transformer, original, constants=constants)}
