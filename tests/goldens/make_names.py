"""Writes tests/goldens/names.json: for each ResNet of torchvision, timm and transformers, a digest of its tensors' names and shapes.

    PYTHONPATH=. python tests/goldens/make_names.py      # needs torch, torchvision, timm and transformers; 2026-11: torchvision 0.28, timm 1.0.31, transformers 5.23

A digest is the first 16 hex digits of sha256 over the sorted lines "name shape", batch counters and classifier left out.
"""
import hashlib
import json
from pathlib import Path

MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def digest(shapes: dict[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items() if not name.endswith("num_batches_tracked") and not name.startswith("fc."))
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
    Path(__file__).with_name("names.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
