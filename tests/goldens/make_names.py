"""Writes tests/goldens/names.json: a digest of the tensors' names and shapes of each ResNet of torchvision, timm and transformers, and of tiny vision transformers.

    PYTHONPATH=. python tests/goldens/make_names.py      # needs torch, torchvision, timm and transformers; 2026-11: torchvision 0.28, timm 1.0.31, transformers 5.23

A digest is the first 16 hex digits of sha256 over the sorted lines "name shape", batch counters, classifier and pooler left out. transformers' names of vision
transformers are those of its files, which are not those in memory since its fifth version.
"""
import hashlib
import json
import tempfile
from pathlib import Path

MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# keys of our vision transformers, of width 32, two blocks, four heads, 16 pixels and patches of 8
VITS = {"plain": {}, "registers": {"registers": 3, "layer_scale": 0.1, "mask_token": True}, "swiglu": {"ffn": "swiglu", "layer_scale": 0.1, "mask_token": True}}


def digest(shapes: dict[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items() if not name.endswith("num_batches_tracked") and not name.startswith(("fc.", "pooler.")))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def main():
    import timm
    import torch
    import torchvision
    import transformers
    found = {"torchvision": {}, "timm": {}, "transformers": {}}
    with torch.device("meta"):
        for name in MODELS:
            found["torchvision"][name] = getattr(torchvision.models, name)(weights=None)
            found["timm"][name] = timm.create_model(name)
            basic, depths = name in MODELS[:2], {"resnet18": [2, 2, 2, 2], "resnet101": [3, 4, 23, 3], "resnet152": [3, 8, 36, 3]}.get(name, [3, 4, 6, 3])
            config = transformers.ResNetConfig(layer_type="basic" if basic else "bottleneck", depths=depths, hidden_sizes=[(64 if basic else 256) * 2**i for i in range(4)])
            found["transformers"][name] = transformers.ResNetModel(config)
    digests = {library: {name: digest({k: tuple(v.shape) for k, v in model.state_dict().items()}) for name, model in models.items()} for library, models in found.items()}
    for library, made in (("timm", timm_vit), ("transformers", transformers_vit)):
        digests[library] |= {f"vit {case}": digest(made(**keys)) for case, keys in VITS.items()}
    Path(__file__).with_name("names.json").write_text(json.dumps(digests, indent=1) + "\n")


def timm_vit(*, registers=0, layer_scale=None, ffn="mlp", mask_token=False):
    import timm
    arguments = dict(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=0, init_values=layer_scale, reg_tokens=registers)
    model = timm.create_model("vit_giant_patch14_dinov2", **arguments, mlp_ratio=2 * 88 / 32) if ffn == "swiglu" else timm.create_model("vit_tiny_patch16_224", **arguments)
    return {k: tuple(v.shape) for k, v in model.state_dict().items()} | ({"mask_token": (1, 32)} if mask_token else {})        # which timm leaves out


def transformers_vit(*, registers=0, layer_scale=None, ffn="mlp", mask_token=False):
    import safetensors
    import transformers
    name = "Dinov2WithRegisters" if registers else "Dinov2" if layer_scale else "ViT"
    own = {"ViT": {"intermediate_size": 128}, "Dinov2": {"use_swiglu_ffn": ffn == "swiglu"}, "Dinov2WithRegisters": {"num_register_tokens": registers}}[name]
    config = getattr(transformers, f"{name}Config")(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8, **own)
    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
        with safetensors.safe_open(Path(folder) / "model.safetensors", framework="numpy") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}


if __name__ == "__main__":
    main()
