"""What the instructions of a compiled program move and compute.

`counted` follows the rules by which XLA's own "bytes accessed" comes about (checked against it in the tests). Those rules charge a TPU's copies between HBM
and on-chip memory three to four times and on-chip accesses once, so the HBM traffic beside it, by the memory space in each layout, is the better guide to time.
"""
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxssl.planning.hlo import COLLECTIVES, Computation, Instruction, Program, buffers, nbytes, source, walk

# Nothing moves in these: names for what is there, or the end of an asynchronous operation that was charged at its start.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "iota",
        "while", "call", "conditional")
ARITHMETIC = ("abs", "add", "and", "atan2", "ceil", "clamp", "compare", "cosine", "divide", "exponential", "exponential-minus-one", "floor", "log",
              "log-plus-one", "logistic", "maximum", "minimum", "multiply", "negate", "or", "power", "remainder", "round-nearest-afz",
              "round-nearest-even", "rsqrt", "select", "shift-left", "shift-right-arithmetic", "shift-right-logical", "sign", "sine", "sqrt",
              "subtract", "tan", "tanh", "xor")


class Cost(NamedTuple):
    """Of one instruction: where it runs in the source, bytes as XLA counts them, bytes to and from HBM, arithmetic operations."""
    op_name: str
    counted: int
    hbm: int
    flops: int


def costs(program: Program) -> list[Cost]:
    """The cost of every instruction that runs, loops multiplied out where their length is known."""
    found = []
    for i, computation, times in walk(program):
        counted, hbm = moved(i, computation, program)
        work = flops(i, computation, program)
        if counted or hbm or work:
            found.append(Cost(source(i, computation), times * counted, times * hbm, times * work))
    return found


def repeated(program: Program) -> tuple[int, int]:
    """(operations, bytes as XLA counts them) of all rounds of loops but their first: XLA's own analysis takes a body once."""
    operations = counted = 0
    for i, computation, times in walk(program):
        if times > 1:
            operations += (times - 1) * flops(i, computation, program)
            counted += (times - 1) * moved(i, computation, program)[0]
    return operations, counted


def shares(found: list[Cost], part: Callable[[str], str]) -> dict[str, Cost]:
    """Costs summed by the name that `part(op_name)` gives."""
    sums: dict[str, Cost] = {}
    for cost in found:
        name = part(cost.op_name)
        old = sums.get(name, Cost(name, 0, 0, 0))
        sums[name] = Cost(name, old.counted + cost.counted, old.hbm + cost.hbm, old.flops + cost.flops)
    return sums


def moved(i: Instruction, computation: Computation, program: Program) -> tuple[int, int]:
    """Bytes that an instruction moves: as XLA counts them, and to or from HBM. Of an array that is only sliced, or updated in one place, that slice alone."""
    if i.op in FREE or i.op.endswith("-done") or i.op == "async-start" or 'custom_call_target="ConcatBitcast"' in i.attributes:
        return 0, 0
    if i.op == "copy-start":                                       # of one array between memory spaces; HBM is at one end
        size = nbytes(computation[i.operands[0]].shape) if i.operands[0] in computation else 0
        return 4 * size, size
    if i.op == "slice-start":                                      # ((operand), slice, flag)
        size = buffers(i.shape)[-2].nbytes
        return 3 * size, size
    touched = _touched(i, computation, program)
    return sum(counted for counted, _, _ in touched), sum(size for _, size, space in touched if space == 0)


def _touched(i, computation, program):
    """(bytes as XLA counts them, bytes, memory space) of every array that an instruction reads and makes, as far as it touches them.

    A collective that a TPU computes beside others moves where it starts: in the fusions that go on with it, whose root is a tuple, and in the one that ends it, whose root is a
    call that gives a single array, its arrays lie still, and so does what passes through. XLA counts them whole each time.
    """
    inside = program.computations.get(i.calls[0], {}) if i.op == "fusion" and i.calls else {}
    root = next((x for x in inside.values() if x.root), None)
    made = [i] if root is None else [_plain(inside.get(o), inside) for o in root.operands] if root.op == "tuple" else [_plain(root, inside)]
    goes_on, arrays = root is not None and root.op == "tuple", buffers(i.shape)
    ends = root is not None and root.op == "custom-call" and not i.shape.startswith("(") and any(x.op in COLLECTIVES for x in inside.values())
    if len(made) != len(arrays):
        made = [None] * len(arrays)
    found = []
    for x, b in zip(made, arrays):
        size = _slice(x, inside or computation) if x is not None and x.op == "dynamic-update-slice" else b.nbytes
        still = ends or goes_on and x is not None and x.op in ("parameter", *COLLECTIVES)
        found.append((size, 0 if still else size, b.space))
    for number, name in enumerate(i.operands):
        if name not in computation:
            continue
        held, sizes = buffers(computation[name].shape), [None, None]
        if len(held) == 1:
            uses = _uses(_parameter(number, inside), inside) if root is not None else [(name, i)]
            sizes = [_read(uses, inside or computation, program, on) for on in (False, goes_on)]
        counted, read = ([b.nbytes for b in held] if size is None else [size] for size in sizes)
        found += [(size, 0 if ends else least, b.space) for size, least, b in zip(counted, read, held, strict=True)]
    return found


def _read(uses, inside, program, on):
    """Bytes that instructions read of one array, where `uses` are (its name there, the instruction); None for all of it.

    on: what passes through, or to a collective, lies still.
    """
    total = 0
    for name, x in uses:
        if x.op in ("dynamic-slice", "dynamic-update-slice") and x.operands[0] == name and name not in x.operands[1:]:
            total += _slice(x, inside)
        elif x.op == "fusion" and x.calls:                         # of a fusion within one: what that reads
            body = program.computations.get(x.calls[0], {})
            parts = [_read(_uses(_parameter(number, body), body), body, program, on) for number, operand in enumerate(x.operands) if operand == name]
            if None in parts:
                return None
            total += sum(parts)
        elif not (on and (x.op in COLLECTIVES or x.op == "tuple" and x.root)):
            return None
    return total if uses else None


def _parameter(number, inside):
    """The name of a computation's parameter of this number."""
    return next((x.name for x in inside.values() if x.op == "parameter" and re.match(rf"value={number}\b", x.attributes)), "")


def _uses(name, computation):
    """(the name under which, the instruction) that use an array, bitcasts followed."""
    found = []
    for x in computation.values():
        if name in x.operands:
            found += _uses(x.name, computation) if x.op == "bitcast" else [(name, x)]
    return found


def _plain(x, computation):
    """What a bitcast is of."""
    while x is not None and x.op == "bitcast":
        x = computation.get(x.operands[0])
    return x


def _slice(x, computation):
    """Bytes of what a dynamic slice gives, or of what a dynamic update puts in place."""
    if x.op == "dynamic-slice":
        return nbytes(x.shape)
    update = computation.get(x.operands[1])
    return nbytes(update.shape) if update is not None else nbytes(x.shape)


def flops(i: Instruction, computation: Computation, program: Program) -> int:
    """Arithmetic operations: two for each multiply-add of products and convolutions, one for each element otherwise."""
    if i.op == "fusion":
        return sum(flops(inner, program.computations[c], program) for c in i.calls for inner in program.computations.get(c, {}).values())
    if i.op in ARITHMETIC:
        return math.prod(buffers(i.shape)[0].dims)
    if i.op in ("reduce", "reduce-window", "select-and-scatter") and i.operands and i.operands[0] in computation:
        inputs, window = buffers(computation[i.operands[0]].shape), re.search(r"size=([\dx]+)", i.attributes)
        if i.op == "reduce":
            return sum(math.prod(b.dims) for b in inputs)
        return math.prod(buffers(i.shape)[0].dims) * math.prod(int(n) for n in window.group(1).split("x")) if window else 0
    if i.op == "convolution" and len(i.operands) == 2 and i.operands[1] in computation:
        return _convolution(i, computation)
    if i.op == "dot" and i.operands and i.operands[0] in computation:
        left = buffers(computation[i.operands[0]].shape)[0].dims
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
        return 2 * math.prod(buffers(i.shape)[0].dims) * math.prod(left[int(d)] for d in contracted.group(1).split(",") if d)
    return 0


def _convolution(i, computation):
    """As XLA counts: what a kernel reaches in the padding, or between inputs that are dilated, costs nothing. (A TPU's product with columns of 16 heads has padding of 15.)"""
    first, second, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes).groups()
    left, kernel, made = (buffers(shape)[0].dims for shape in (computation[i.operands[0]].shape, computation[i.operands[1]].shape, i.shape))
    window = dict(re.findall(r"(\w+)=(-?\d[\dx_-]*)", (re.search(r"window=\{([^}]*)\}", i.attributes) or [""])[0]))
    spatial = sorted(label for label in out if label.isdigit())

    def each(name, default):
        return [[int(n) for n in part.split("_")] for part in window[name].split("x")] if name in window else [default] * len(spatial)

    taps = 1
    for label, (stride,), (low, *_), (apart,), (wide,) in zip(spatial, each("stride", [1]), each("pad", [0, 0]), each("lhs_dilate", [1]), each("rhs_dilate", [1])):
        reached = np.arange(made[out.index(label)])[:, None] * stride - low + np.arange(kernel[second.index(label)]) * wide
        taps *= int(((reached % apart == 0) & (reached >= 0) & (reached < left[first.index(label)] * apart)).sum())
    return 2 * taps * made[out.index("b")] * made[out.index("f")] * kernel[second.index("i")]
