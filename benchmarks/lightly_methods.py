"""The ten methods of lightly's CIFAR-10 table in PyTorch, of lightly's own losses, heads, banks and averages, as `cifar10_lightly.py` compares them.

Each step is that of lightly's benchmark (docs/source/getting_started/benchmarks/cifar10_benchmark.py), with the widths of configs/cifar10/NAME.py:laptop. Where ours has fewer
layers or no bias, lightly's `ProjectionHead` is given the same blocks, so that both sides have the same weights to begin with; nothing else of lightly's is changed.
What differs by design stays: NNCLR's NT-Xent has negatives of both views, SwAV's prototypes have a bias (0 at first) and are of unit length by projection after each step,
negatives in MoCo's bank and neighbours in NNCLR's may be of the image itself, averages leave batch statistics out, and Barlow Twins, BYOL and SimSiam scale their losses otherwise.
"""
import numpy as np
import torch
from lightly.loss import BarlowTwinsLoss, DCLLoss, DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from lightly.models.modules import NNMemoryBankModule
from lightly.models.modules.heads import DINOProjectionHead, ProjectionHead, SwaVPrototypes
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import nn

METHODS = ("simclr", "dcl", "moco_v2", "nnclr", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino")
WIDTH = 128                     # of what the encoder gives


class Peer(nn.Module):
    """One method: `student` are the networks that are trained, by the names that ours have; loss(a, b, step) is of two views [B, 3, 32, 32] and updates averages first.

    settings: the keys of `config.method`. batch: images of a step. total: steps. joint: both views of a step are normed together, not each by itself.
    """

    def __init__(self, name: str, settings: dict, total: int, joint: bool):
        super().__init__()
        self.name, self.settings, self.total, self.joint = name, settings, total, joint
        self.student = nn.ModuleDict({"encoder": resnet10(), **heads(name, settings)})
        self.criterion, self.bank = criteria(name, settings)
        if name in ("moco_v2", "byol", "dino"):
            self.teacher = nn.ModuleDict({part: module for part, module in {"encoder": resnet10(), **heads(name, settings)}.items() if part != "predictor"})
            deactivate_requires_grad(self.teacher)

    def start(self, weights: dict[str, np.ndarray]):
        """Begins at the weights of our side, a path each; an average begins as a copy."""
        copied(self.student, weights)
        if hasattr(self, "teacher"):
            for part, network in self.teacher.items():
                network.load_state_dict(self.student[part].state_dict())
        return self

    def both(self, networks, a, b):
        """What networks, one behind the other, give for each of two batches."""
        if self.joint:
            return self.through(networks, torch.cat([a, b])).chunk(2)
        return self.through(networks, a), self.through(networks, b)

    def through(self, networks, x):
        for network in networks:
            x = network(x)
        return x

    def loss(self, a: torch.Tensor, b: torch.Tensor, step: int) -> torch.Tensor:
        if hasattr(self, "teacher"):
            decay = self.settings["tau"] if self.name == "moco_v2" else cosine_schedule(step, self.total, self.settings["tau"], 1.0)
            for part, network in self.teacher.items():
                update_momentum(self.student[part], network, decay)
        if self.name in ("swav", "dino"):
            return getattr(self, self.name)(a, b)
        z = self.both((self.student["encoder"], self.student["projector"]), a, b)
        return getattr(self, self.name, self.plain)(a, b, *z)

    def plain(self, a, b, z0, z1):
        """SimCLR, DCL, Barlow Twins and VICReg."""
        return self.criterion(z0, z1)

    def moco_v2(self, a, b, z0, z1):
        with torch.no_grad():
            k0, k1 = self.both(self.teacher.values(), a, b)
        return 0.5 * (self.criterion(z0, k1) + self.criterion(z1, k0))

    def nnclr(self, a, b, z0, z1):
        p0, p1 = self.both((self.student["predictor"],), z0, z1)
        n0, n1 = self.bank(z0.detach(), update=False), self.bank(z1.detach(), update=True)
        return 0.5 * (self.criterion(n0, p1) + self.criterion(n1, p0))

    def byol(self, a, b, z0, z1):
        p0, p1 = self.both((self.student["predictor"],), z0, z1)
        with torch.no_grad():
            t0, t1 = self.both(self.teacher.values(), a, b)
        return 0.5 * (self.criterion(p0, t1) + self.criterion(p1, t0))

    def simsiam(self, a, b, z0, z1):
        p0, p1 = self.both((self.student["predictor"],), z0, z1)
        return 0.5 * (self.criterion(p0, z1.detach()) + self.criterion(p1, z0.detach()))

    def swav(self, a, b):
        self.student["prototypes"].normalize()
        z = self.both((self.student["encoder"], self.student["head"]), a, b)
        return self.criterion([self.student["prototypes"](nn.functional.normalize(x, dim=1)) for x in z], []).squeeze()

    def dino(self, a, b):
        with torch.no_grad():
            target = self.both(self.teacher.values(), a, b)
        return self.criterion(list(target), list(self.both(self.student.values(), a, b)), teacher_temp=self.settings["teacher_temp"])


def criteria(name: str, s: dict):
    """The loss of a method, and the bank of neighbours or None."""
    if name in ("simclr", "dcl"):
        return {"simclr": NTXentLoss, "dcl": DCLLoss}[name](temperature=s["temperature"]), None
    if name == "moco_v2":
        return NTXentLoss(temperature=s["temperature"], memory_bank_size=(s["queue"], s["dim"])), None
    if name == "nnclr":
        return NTXentLoss(temperature=s["temperature"]), NNMemoryBankModule(size=(s["queue"], s["dim"]))
    if name in ("byol", "simsiam"):
        return NegativeCosineSimilarity(), None
    if name == "barlow_twins":
        return BarlowTwinsLoss(lambda_param=s["redundancy_weight"]), None
    if name == "vicreg":
        return VICRegLoss(s["sim"], s["std"], s["cov"]), None
    if name == "swav":
        return SwaVLoss(temperature=s["temperature"], sinkhorn_epsilon=s["epsilon"], sinkhorn_iterations=s["iterations"]), None
    return DINOLoss(output_dim=s["prototypes"], student_temp=s["student_temp"], center_momentum=s["center_momentum"]), None


def heads(name: str, s: dict) -> dict:
    """lightly's heads with the layers of ours; see the file's docstring."""
    if name == "dino":
        head = DINOProjectionHead(WIDTH, s["hidden"], s["bottleneck"], s["prototypes"], batch_norm=s["norm"], norm_last_layer=s["norm_last_layer"])
        widths = [WIDTH] + [s["hidden"]] * (s["layers"] - 1)
        head.layers = ProjectionHead([(i, o, nn.BatchNorm1d(o), nn.GELU()) for i, o in zip(widths, widths[1:])] + [(widths[-1], s["bottleneck"], None, None)]).layers
        return {"head": head}
    if name == "swav":
        return {"head": ProjectionHead([hidden(WIDTH, s["hidden"]), (s["hidden"], s["dim"], None, None)]), "prototypes": SwaVPrototypes(s["dim"], s["prototypes"])}
    wide = [WIDTH] + [s["hidden"]] * (s.get("layers", 2) - 1)
    inner = [hidden(i, o, norm=name != "moco_v2") for i, o in zip(wide, wide[1:])]
    last = {"simclr": nn.BatchNorm1d(s["dim"]), "dcl": nn.BatchNorm1d(s["dim"]), "nnclr": nn.BatchNorm1d(s["dim"]), "simsiam": nn.BatchNorm1d(s["dim"], affine=False)}.get(name)
    found = {"projector": ProjectionHead([*inner, (wide[-1], s["dim"], last, None, name == "moco_v2")])}
    if name in ("simclr", "dcl"):
        nn.init.zeros_(last.bias).requires_grad_(False)                        # SimCLR's head ends in a norm without a centre
    if name in ("nnclr", "byol", "simsiam"):
        between = s["hidden"] if name == "byol" else s["predictor"]
        found["predictor"] = ProjectionHead([hidden(s["dim"], between), (between, s["dim"], None, None, name != "byol")])
    return found


def hidden(before, after, norm=True):
    return before, after, nn.BatchNorm1d(after) if norm else None, nn.ReLU()


def resnet10() -> nn.Sequential:
    """The network of `models.make(name="resnet10", width=.25)` in torch, last norms starting at zero."""
    from torchvision.models.resnet import BasicBlock

    layers, channels = [nn.Conv2d(3, 16, 7, 2, padding=3, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)], 16
    for width, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)) if stride > 1 or channels != width else None
        block = BasicBlock(channels, width, stride, shortcut)
        nn.init.zeros_(block.bn2.weight)
        layers.append(block)
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def copied(student: nn.ModuleDict, weights: dict[str, np.ndarray]) -> None:
    """Copies all kernels and biases of linear layers; norms start alike on both sides. Raises: ValueError where a path is left over or missing."""
    encoder = student["encoder"]
    layers = {"encoder/stem/conv": encoder[0]}
    for stage in range(1, 5):
        block, path = encoder[3 + stage], f"encoder/stage{stage}/block0"
        layers |= {f"{path}/conv1": block.conv1, f"{path}/conv2": block.conv2}
        if block.downsample is not None:
            layers[f"{path}/shortcut/conv"] = block.downsample[0]
    for name in ("projector", "predictor", "head"):
        if name in student:
            layers |= {f"{name}/linear{i}": layer for i, layer in enumerate((m for m in student[name].layers if isinstance(m, nn.Linear)), 1)}
    wanted = {f"{path}/{kind}" for path, layer in layers.items() for kind in ("kernel", "bias") if kind == "kernel" or layer.bias is not None}
    if "head" in student:
        wanted.add("head/prototypes/kernel")
    norms = {name for name in weights if name.startswith("probe") or name.rpartition("/")[0].rpartition("/")[2].startswith("norm")}
    if wanted != set(weights) - norms:
        raise ValueError(f"the two sides differ in {sorted(wanted ^ (set(weights) - norms))}")
    with torch.no_grad():
        for path, layer in layers.items():
            layer.weight.copy_(tensor(weights[f"{path}/kernel"]))
            if layer.bias is not None:
                layer.bias.copy_(tensor(weights[f"{path}/bias"]))
        if "prototypes" in student:
            student["prototypes"].heads[0].weight.copy_(tensor(weights["head/prototypes/kernel"]))
            student["prototypes"].heads[0].bias.zero_()
            student["prototypes"].normalize()
        elif "head" in student:
            student["head"].last_layer.weight_v.copy_(tensor(weights["head/prototypes/kernel"]))


def tensor(kernel: np.ndarray) -> torch.Tensor:
    """A kernel of ours in torch's order: [I, O] -> [O, I], [H, W, I, O] -> [O, I, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(*range(kernel.ndim)[::-1]) if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel))
