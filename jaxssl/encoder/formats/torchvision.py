"""torchvision's ResNets: a state dict in safetensors that loads strictly. timm's have the same names.

What torchvision does not offer (a CIFAR stem, other widths, ten layers, another epsilon) takes a few lines, which `usage` writes.
"""
from pathlib import Path

import numpy as np

from jaxssl import models
from jaxssl.errors import UserError
from jaxssl.encoder.formats import arrays, convnexts, files, names, records, resnets

STEM = "conv1.weight"
BODY = r"(conv1|bn1|layer\d+)\."                 # names of the network itself
KNOWN = r"fc\.(weight|bias)|(.*\.)?" + names.COUNTERS   # names that a ResNet has beside its encoder: classifier, counters


def place(p: resnets.Place) -> tuple[str, str]:
    if not p.stage:
        return "conv1", "bn1"
    block = f"layer{p.stage}.{p.block}"
    return (f"{block}.conv{p.unit}", f"{block}.bn{p.unit}") if p.unit else (f"{block}.downsample.0", f"{block}.downsample.1")


def table(module) -> dict[str, names.Tensor]:
    return resnets.table(module, place, resnets.TORCH, "conv")


SIDES = {resnets: names.Side("torchvision", STEM, BODY, KNOWN, table), convnexts: convnexts.side("torchvision")}


def write(encoder, folder: Path) -> None:
    """Raises: UserError for a ResNet of other than four stages, which torchvision has none of."""
    if len(encoder.module.depths) != 4:
        raise UserError(f"torchvision's ResNets cannot have {len(encoder.module.depths)} stages; use --format transformers, onnx, stablehlo or safetensors")
    records.write_torch(encoder, folder, "torchvision", table(encoder.module))


def usage(encoder, folder: Path) -> tuple[str, str]:
    """Code that makes `model` of the file, and code that makes `features` [B, D] of `images` [B, 3, H, W]."""
    m, name = encoder.module, encoder.config["model"]["name"]
    usual = m.width == 64 and m.bn_eps == 1e-5 and name not in ("resnet10", "resnet200") and m.depths == models.resnet.LAYERS[name][1]
    options = "" if m.bn_eps == 1e-5 else f", norm_layer=functools.partial(torch.nn.BatchNorm2d, eps={m.bn_eps!r})"
    options += f", width_per_group={64 * m.inner}" if m.inner != 1 else ""
    kind = f"torchvision.models.resnet.{'BasicBlock' if m.kind == 'basic' else 'Bottleneck'}"
    lines = ["import functools"] * ("functools" in options) + ["import torch", "import torchvision", "from safetensors.torch import load_file", ""]
    if m.width != 64:
        lines += [f"class ResNet(torchvision.models.ResNet):            # {m.width} channels in the first stage instead of 64",
                  "    def _make_layer(self, block, planes, *rest, **named):",
                  f"        self.inplanes = {m.width} if planes == 64 else self.inplanes",
                  f"        return super()._make_layer(block, planes * {m.width} // 64, *rest, **named)", ""]
    whole = "ResNet" if m.width != 64 else "torchvision.models.ResNet"
    lines.append(f"model = torchvision.models.{name}(weights=None)" if usual else f"model = {whole}({kind}, {list(m.depths)}{options})")
    if m.stem == "cifar":
        lines += [f"model.conv1 = torch.nn.Conv2d(3, {m.width}, 3, stride=1, padding=1, bias=False)      # the stem for small images",
                  "model.maxpool = torch.nn.Identity()"]
    elif m.width != 64:
        lines.append(f"model.conv1 = torch.nn.Conv2d(3, {m.width}, 7, stride=2, padding=3, bias=False)")
    if m.stem == "tensorflow":
        lines.append("model.maxpool = torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 0, 1)), torch.nn.MaxPool2d(3, 2))      # padded behind only; its input is not negative")
    if m.width != 64:
        lines.append(f"model.bn1 = torch.nn.BatchNorm2d({m.width}, eps={m.bn_eps!r})")
    lines += ["model.fc = torch.nn.Identity()", f"model.load_state_dict(load_file({str(folder / files.WEIGHTS)!r}), strict=True)", "model.eval()"]
    return "\n".join(lines), "with torch.inference_mode():\n    features = model(images)"


def feed(x: np.ndarray, pixels: list):
    return arrays.tensor(x)
