"""What a TPU chip can do, and how long a step must at least take on it. Published figures: cloud.google.com/tpu/docs, one page a generation."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device: memory in bytes, memory bandwidth in bytes/s, bf16 peak in operations/s, links to other chips in bytes/s, one way, all together."""
    name: str
    hbm: float
    bandwidth: float
    peak: float
    links: float


GIB = 2.0 ** 30
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 1228e9, 275e12, 300e9),
    "v5e": Chip("TPU v5e", 16 * GIB, 819e9, 197e12, 200e9),
    "v5p": Chip("TPU v5p", 95 * GIB, 2765e9, 459e12, 600e9),
    "v6e": Chip("TPU v6e", 32 * GIB, 1640e9, 918e12, 400e9),
}
LATENCY = 5e-6  # seconds of one collective with nothing to send: a few hops over a torus; an assumption, not a published figure
FORMULA = ("step = max(operations / peak, bytes / bandwidth) + Σ over collectives of (5 µs + bytes on the links / link bandwidth), nothing overlapped; "
           "bytes on the links: (n−1)/n of the array for a gather, a scatter or an exchange among n, twice that for an all-reduce")


def step_seconds(chip: Chip, *, flops: float, nbytes: float, network: float) -> float:
    """Seconds of a step that does `flops` operations, moves `nbytes` to and from memory and waits `network` seconds (FORMULA)."""
    return max(flops / chip.peak, nbytes / chip.bandwidth) + network


def network_seconds(chip: Chip, collectives: list[dict]) -> float:
    """Seconds of collectives, each `{"op", "bytes", "group", "times"}`, one after another."""
    total = 0.0
    for c in collectives:
        n = max(c["group"], 1)
        if n > 1:
            total += c["times"] * (LATENCY + (2 if c["op"] == "all-reduce" else 1) * c["bytes"] * (n - 1) / n / chip.links)
    return total
