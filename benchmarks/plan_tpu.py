"""What the TPU compiler says of the ImageNet recipe on v5e:16x16: bytes, temporaries, the share of the views, and how long compiling takes.

    python benchmarks/plan_tpu.py [--remat] # needs the extra 'tpu', no TPU; writes benchmarks/results/plan_tpu.json

The figures are the compiler's and do not vary from run to run; only the seconds do. Bars: under 5 minutes on 2 cores; under 14 GB accessed on a device and
step (XLA's own count, which charges copies between HBM and on-chip memory several times: `hbm_bytes` is the traffic alone), under 1.4 GB of temporaries;
the views under a tenth of bytes and of operations.
"""
import argparse
import json
import resource
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from machine import machine  # noqa: E402

from jaxssl import plan  # noqa: E402

TOPOLOGY = "v5e:16x16"


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/plan_tpu.json"))
    flags.add_argument("--remat", action="store_true", help="with model.remat=True")
    args = flags.parse_args()
    found = plan.make(str(ROOT / "configs/imagenet/simclr.py"), {"model.remat": "True"} if args.remat else {}, topology=TOPOLOGY)
    print(plan.report(found))
    rows = judge(found)
    found["config"] = "configs/imagenet/simclr.py"
    Path(args.out).write_text(json.dumps({"command": "python benchmarks/plan_tpu.py" + " --remat" * args.remat, "machine": machine("jax", "jaxlib", "flax", "libtpu"),
                                          "rows": rows, "plan": summary(found)}, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def judge(found):
    """Each bar with what was measured."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    views = found["parts"]["views"]
    whole = {key: sum(p[key] for p in found["parts"].values()) for key in ("bytes", "hbm_bytes", "flops")}
    rows = {
        "compile seconds": (found["compile_seconds"], 300), "GB accessed on a device and step": (found["bytes"] / 1e9, 14),
        "GB of temporaries": (found["memory"]["temporaries"] / 1e9, 1.4), "views, share of bytes": (views["bytes"] / whole["bytes"], 0.1),
        "views, share of HBM traffic": (views["hbm_bytes"] / whole["hbm_bytes"], 0.1), "views, share of operations": (views["flops"] / whole["flops"], 0.1)}
    return {name: {"measured": round(value, 4), "bar": bar, "met": value < bar} for name, (value, bar) in rows.items()} | {
        "processor seconds of the whole process": {"measured": round(usage.ru_utime + usage.ru_stime, 1)}}


def summary(found):
    """The plan with the collectives of one kind together: there are a few hundred."""
    kinds = {}
    for c in found.pop("collectives"):
        row = kinds.setdefault(f"{c['op']} of {c['dtype']} over {c['group']}", {"count": 0, "bytes": 0})
        row["count"] += c["times"]
        row["bytes"] += c["times"] * c["bytes"]
    return {**found, "collectives": kinds}


if __name__ == "__main__":
    main()
