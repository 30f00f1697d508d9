"""Reads the text of a compiled XLA program: its instructions and how often they run, its collectives, its largest buffers.

Pure functions of text, so that what a TPU would do can be read on a machine without one.
"""
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
        "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
COPIES = ("copy", "copy-start", "copy-done", "slice-start", "slice-done", "bitcast", "get-tuple-element", "custom-call")
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,<=]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")


class Buffer(NamedTuple):
    """An array as it lies in memory: dtype, logical dims, bytes with the padding of its tiles, memory space (0: HBM or host memory)."""
    dtype: str
    dims: tuple[int, ...]
    nbytes: int
    space: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. `shape` is its result as written, `operands` are names, `attributes` is the rest of the line."""
    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    attributes: str
    root: bool = False

    @property
    def op_name(self) -> str:
        """The path of scopes that JAX gave the operation, as `jit(step)/…/conv1/conv_general_dilated`; empty when there is none."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    @property
    def calls(self) -> tuple[str, ...]:
        """Names of the computations it runs."""
        found = re.findall(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)", self.attributes)
        branches = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        return tuple(found) + (tuple(re.findall(r"%?([\w.\-]+)", branches.group(1))) if branches else ())


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """Every computation by name, each in program order, and the name of the one that runs first."""
    entry: str
    computations: dict[str, Computation]


def parse(text: str) -> Program:
    """The program in a text of `compiled.as_text()`."""
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
    return Program(entry, computations)


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
    value = f"value={rest[start + 1:stop]}" if found.group(1) in ("constant", "parameter") and stop - start < 20 else ""
    return Instruction(head.group(2), rest[:split], found.group(1), operands, value + rest[stop + 1:], bool(head.group(1)))


def buffers(shape: str) -> list[Buffer]:
    """The arrays of a shape as HLO writes it, `(bf16[32,7,7,64]{3,0,2,1:T(8,128)(2,1)S(1)}, f32[])`, padded to their tiles."""
    found = []
    for dtype, text, layout in _SHAPE.findall(shape):
        if dtype not in BITS:
            continue
        dims = tuple(int(re.sub(r"\D", "", d)) for d in text.split(",") if d)
        order = re.match(r"\{([\d,]+)", layout)
        minor_first = [dims[int(i)] for i in order.group(1).split(",")] if order and dims else list(dims)[::-1]
        tile = re.search(r"T\(([\d,]+)\)", layout)
        for i, side in enumerate(reversed(tile.group(1).split(",")) if tile else ()):
            if i < len(minor_first):
                minor_first[i] = math.ceil(minor_first[i] / int(side)) * int(side)
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Buffer(dtype, dims, math.ceil(math.prod(minor_first) * BITS[dtype] / 8), int(space.group(1)) if space else 0))
    return found


def nbytes(shape: str, space: int | None = None) -> int:
    """Bytes of a shape, tuples summed; with `space`, of the arrays in that memory space alone."""
    return sum(b.nbytes for b in buffers(shape) if space is None or b.space == space)


def walk(program: Program, *, inside: bool = False) -> Iterator[tuple[Instruction, Computation, int]]:
    """Every instruction that runs as one, with its computation and how often it runs; bodies of fusions and reducers stay inside theirs, unless `inside` asks for them."""
    def visit(name, times):
        for i in program.computations.get(name, {}).values():
            yield i, program.computations[name], times
            if inside or i.op in ("while", "call", "conditional", "async-start"):
                for called in i.calls:
                    yield from visit(called, times * _trips(i, program))
    return visit(program.entry, 1)


def _trips(i, program):
    """How often an instruction runs what it calls: the length of a loop where it is known, else 1.

    The compiler may note it. A TPU's text does not, but its condition says up to which number it counts; loops of JAX count from 0 in ones.
    """
    noted = re.search(r'known_trip_count"?:\s*\{"?n"?:"?(\d+)', i.attributes)
    if noted or i.op != "while":
        return int(noted.group(1)) if noted else 1
    condition = program.computations.get(re.search(r"condition=%?([\w.\-]+)", i.attributes).group(1), {})
    for test in condition.values():
        limits = [re.match(r"value=(\d+)", condition[o].attributes) for o in test.operands if o in condition and condition[o].op == "constant"]
        if test.op == "compare" and "direction=LT" in test.attributes and limits and limits[0]:
            return int(limits[0].group(1))
    return 1


def source(i: Instruction, computation: Computation) -> str:
    """The op_name of an instruction; of a copy that has none, that of what it copies."""
    while not i.op_name and i.op in COPIES and i.operands and i.operands[0] in computation:
        i = computation[i.operands[0]]
    return i.op_name


def collectives(program: Program) -> list[dict]:
    """Every collective: `op`, `dtype`, `bytes` of the whole array on a device, `group` (how many devices share it), `times` that it runs, `op_name`.

    A TPU's asynchronous ones show up in several fusions; a channel is listed once.
    """
    found, first = {}, {}
    for i, computation, times in walk(program, inside=True):
        op = i.op.removesuffix("-start")
        if op not in COLLECTIVES:
            continue
        whole = [b for b in buffers(i.shape) if b.dims or op == "all-reduce"]
        operands = [b for o in i.operands if o in computation for b in buffers(computation[o].shape)]
        if i.op.endswith("-start") and i.shape.startswith("(") and op != "all-reduce":          # (operands, results, …)
            whole = whole[len(operands):] or whole
        size = max(sum(_logical(b) for b in whole), sum(_logical(b) for b in operands))
        channel = re.search(r"channel_id=(\d+)", i.attributes)
        key = (op, channel.group(1) if channel else i.name, size)
        found.setdefault(key, {"op": op, "dtype": "+".join(sorted({b.dtype for b in whole})), "bytes": size,
                               "group": group_size(i.attributes), "times": 0, "op_name": i.op_name})
        if first.setdefault(key, i.name) == i.name:
            found[key]["times"] += times
    return list(found.values())


def group_size(attributes: str) -> int:
    """Devices in one group of a collective, in each of the three ways that HLO writes it; 0 when the text does not say."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", mesh.group(2)))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes)
    if iota:
        return int(iota.group(2))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    return len(listed.group(1).split(",")) if listed else 0


def largest(program: Program, count: int) -> list[dict]:
    """The largest arrays that an instruction makes in HBM: `bytes` with padding, `shape`, `op_name`; arrays of one shape and place once."""
    found = {}
    for i, computation, _ in walk(program):
        if i.op in ("tuple", "get-tuple-element", "bitcast", "while", "call", "conditional") or i.op.endswith("-done"):
            continue
        made = buffers(i.shape)
        if i.op.endswith("-start") and i.op != "copy-start" and i.shape.startswith("("):       # (operands, results, …)
            made = made[len(i.operands):]
        for b in made:
            if b.space == 0:
                text = f"{b.dtype}[{','.join(map(str, b.dims))}]"
                name = i.name if i.op == "parameter" else source(i, computation)
                found[(b.nbytes, text, name)] = {"bytes": b.nbytes, "shape": text, "op_name": name}
    return sorted(found.values(), key=lambda b: -b["bytes"])[:count]


def _logical(b):
    return math.ceil(math.prod(b.dims) * BITS[b.dtype] / 8)


def _closing(text, start):
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text) - 1


def _shape_end(text):
    """Where the result's shape ends: at the first space outside of braces."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in "{[") - (c in "}]")
        if c == " " and depth == 0:
            return i
    return len(text)
