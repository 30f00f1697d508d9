"""Reads the text of a compiled XLA program: its instructions, what they move, its collectives. Pure functions of text."""
import dataclasses
import math
import re
from collections.abc import Iterable

BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
        "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "iota")
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,<=]*)\]")
_HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. `shape` is its result as written, `operands` are names, `attributes` is the rest of the line."""
    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def op_name(self) -> str:
        """The path of scopes that JAX gave the operation, as `jit(step)/…/conv1/conv_general_dilated`; empty when there is none."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    @property
    def calls(self) -> tuple[str, ...]:
        """Names of the computations it runs."""
        found = re.findall(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)", self.attributes)
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        return tuple(found) + (tuple(re.findall(r"%?([\w.\-]+)", branches.group(1))) if branches else ())


def parse(text: str) -> tuple[str, dict[str, dict[str, Instruction]]]:
    """The name of the entry computation, and every computation as name → instruction, in program order."""
    entry, current, computations = "", None, {}
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = computations.setdefault(head.group(2), {})
            entry = head.group(2) if head.group(1) else entry
        elif current is not None and " = " in line:
            found = instruction(line)
            if found:
                current[found.name] = found
    return entry, computations


def instruction(line: str) -> Instruction | None:
    """One line as an Instruction, or None when it is not one."""
    head = _HEAD.match(line)
    if not head:
        return None
    rest = line[head.end():]
    split = _closing(rest, 0) + 1 if rest.startswith("(") else _shape_end(rest)
    found = re.match(r"\s*([a-z][\w\-]*)\(", rest[split:])
    if not found:
        return None
    start = split + found.end() - 1
    stop = _closing(rest, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[start:stop]))
    return Instruction(head.group(2), rest[:split], found.group(1), operands, rest[stop + 1:], bool(head.group(1)))


def nbytes(shape: str) -> int:
    """Bytes of a shape as HLO writes it, `bf16[8,128]{1,0}`, tuples summed; layout padding is not counted."""
    total = 0
    for kind, dims in _SHAPE.findall(shape):
        if kind in BITS:
            total += math.ceil(math.prod(int(re.sub(r"\D", "", d)) for d in dims.split(",") if d) * BITS[kind] / 8)
    return total


def moved(computation: dict[str, Instruction]) -> dict[str, int]:
    """Bytes that each instruction reads and writes: its operands and its result, once each. An upper estimate where only a slice is read."""
    return {i.name: nbytes(i.shape) + sum(nbytes(computation[o].shape) for o in i.operands if o in computation)
            for i in computation.values() if i.op not in FREE and not i.op.endswith("-done")}


def collectives(text: str) -> list[dict]:
    """Every collective of the program: `op`, `bytes` (of the larger of operands and result, per device), `type`, `group` (devices), `op_name`."""
    found = []
    for computation in parse(text)[1].values():
        for i in computation.values():
            op = i.op.removesuffix("-start")
            if op not in COLLECTIVES:
                continue
            operands = sum(nbytes(computation[o].shape) for o in i.operands if o in computation)
            result = nbytes(i.shape) - (operands if i.op.endswith("-start") and i.shape.startswith("(") else 0)
            kinds = sorted({kind for kind, _ in _SHAPE.findall(i.shape) if kind in BITS})
            found.append({"op": op, "bytes": max(operands, result), "type": "+".join(kinds), "group": group_size(i.attributes), "op_name": i.op_name})
    return found


def group_size(attributes: str) -> int:
    """Devices that take part in one group of a collective; 0 when the text does not say."""
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes)
    if iota:
        return int(iota.group(2))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return len(listed.group(1).split(","))
    return 0


def by_scope(values: dict[str, int], computation: dict[str, Instruction], scopes: Iterable[str]) -> dict[str, int]:
    """Sums `values` over the first of `scopes` (regular expressions) that an instruction's op_name matches; the rest under ""."""
    scopes = tuple(scopes)
    sums = dict.fromkeys((*scopes, ""), 0)
    for name, value in values.items():
        path = computation[name].op_name
        sums[next((s for s in scopes if re.search(s, path)), "")] += value
    return sums


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text) - 1


def _shape_end(text: str) -> int:
    """Where the result's shape ends: at the first space outside of braces."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "{[") - (c in "}]")
        if c == " " and depth == 0:
            return i
    return len(text)
