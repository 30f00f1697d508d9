"""One training step of DINOv2's short recipe (ViT-L/16, 2 crops of 224 and 8 of 96 pixels, 65,536 prototypes) on one GPU: images/s here and of facebookresearch/dinov2.

    python benchmarks/gpu_dinov2.py --peer CHECKOUT                 # a checkout of facebookresearch/dinov2; writes benchmarks/results/gpu_dinov2.json
    python benchmarks/gpu_dinov2.py --small --peer CHECKOUT         # a network of two blocks at 32 pixels, on any device: whether both sides run
    JAX_PLATFORMS=cpu python benchmarks/gpu_dinov2.py --cpu --peer CHECKOUT     # ViT-S/14, four images, float32, on CPUs; writes benchmarks/results/cpu_dinov2.json

Each variant runs in a process of its own. The crops are noise and lie on the device; a step is loss and gradient, clipping, AdamW and the teacher, with the host waiting for each
(the median of them is what counts); neither side draws views or reads data. Batch: 64 images, theirs a GPU; where a variant runs out of memory the next of `--batch` is tried.
Both compute in bfloat16 with float32 parameters (theirs was run in float16, which asks for a scaler besides), without `torch.compile`, as they released it, and without FSDP's
or our sharding, since there is one device; `dinov2_peer.py` says what stands in for FSDP and xFormers on their side. Their stochastic depth computes the rows that are kept alone,
so ours does (model.drop_rows); "rows" is the recipe's own form, which computes all. Ours draws its masks in the step, theirs in the loader, so that here they are drawn once.
MFU: operations of the loss and its gradient with dropped rows left out, what is computed again for `model.remat` counted once, over what the device could do; for both sides the
same count. device_peak: bytes that the device held at most. cpu_seconds: of processor time of a step, all threads.
Expected on two CPU cores: 1 to 1.3 times their images/s by processor time; products are as fast in both, and XLA joins what stands between them.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
BATCHES = (64, 48, 32, 16)
# Variant -> overrides of configs/imagenet/dinov2.py, and whether cuDNN's attention may be taken.
OURS = {"dots": ({"model.drop_rows": True, "model.remat": "dots"}, True), "none": ({"model.drop_rows": True, "model.remat": "none"}, True),
        "full": ({"model.drop_rows": True, "model.remat": "full"}, True), "dots, XLA's attention": ({"model.drop_rows": True, "model.remat": "dots"}, False),
        "none, blocks written out": ({"model.drop_rows": True, "model.remat": "none", "model.scan": False}, True), "rows": ({"model.remat": "dots"}, True)}
PEER = "facebookresearch/dinov2"
DEFAULT = ("dots", PEER, "none", "dots, XLA's attention", "rows", "none, blocks written out")
SMALL = {"augment.size": 32, "local.size": 16, "data.canvas": 32, "model.name": "vit_tiny", "model.patch": 8, "model.image": 32, "model.width": 64, "model.depth": 2,
         "model.heads": 1, "method.prototypes": 512, "method.hidden": 64, "method.bottleneck": 32}
CPU = {"augment.size": 224, "local.size": 98, "model.name": "vit_small", "model.patch": 14, "model.image": 224, "precision": "f32"}
CPU_PEER = {"student.arch": "vit_small", "student.patch_size": 14, "crops.local_crops_size": 98}
SMALL_PEER = {"student.arch": "vit_test", "student.patch_size": 8, "student.block_chunks": 2, "crops.global_crops_size": 32, "crops.local_crops_size": 16,
              "dino.head_n_prototypes": 512, "dino.head_hidden_dim": 64, "dino.head_bottleneck_dim": 32}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--peer", default="", help="a checkout of facebookresearch/dinov2; without it our side alone is measured")
    flags.add_argument("--variant", nargs="+", default=list(DEFAULT), choices=[*OURS, PEER])
    flags.add_argument("--batch", type=int, nargs="+")
    flags.add_argument("--steps", type=int)
    flags.add_argument("--small", action="store_true")
    flags.add_argument("--cpu", action="store_true")
    flags.add_argument("--out")
    flags.add_argument("--worker", nargs=2, metavar=("VARIANT", "BATCH"), help=argparse.SUPPRESS)
    args = flags.parse_args()
    args.batch, args.steps = args.batch or ([4] if args.cpu else list(BATCHES)), args.steps or (5 if args.cpu else 20)
    if args.worker:
        variant, batch = args.worker
        print(json.dumps((theirs if variant == PEER else ours)(args, variant, int(batch))))
        return
    out = Path(args.out or ROOT / f"benchmarks/results/{'cpu' if args.cpu else 'gpu'}_dinov2.json")
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    for variant in ("none", PEER, "rows") if args.cpu and args.variant == list(DEFAULT) else args.variant:
        if variant == PEER and not args.peer:
            continue
        for batch in args.batch:
            found = child(args, variant, batch)
            print(variant, batch, json.dumps(found), file=sys.stderr, flush=True)
            rows = [row for row in rows if [row["variant"], row["batch"], row["small"]] != [variant, batch, args.small]]
            rows.append({"variant": variant, "batch": batch, "small": args.small, **found})
            known = next((row["flops"] / row["batch"] for row in rows if row.get("flops") and row["small"] == args.small and row["variant"] in ("dots", "none", "full")), None)
            for row in rows:
                if known and row.get("seconds") and row["small"] == args.small:
                    row["mfu"] = mfu(known * row["batch"], row["seconds"], row["device"])
            of = {"command": "python benchmarks/gpu_dinov2.py" + " --cpu" * args.cpu + " --peer CHECKOUT", "machine": machine("jax", "jaxlib", "flax", "optax", "torch")}
            out.write_text(json.dumps({**of, "rows": rows}, indent=1) + "\n")
            if "seconds" in found:
                break
    print(json.dumps(rows, indent=1))


def mfu(flops, seconds, device):
    sys.path.insert(0, str(ROOT))
    from jaxssl.training import progress                                    # touches no device

    return progress.mfu(flops, seconds, 1, device)


def child(args, variant, batch):
    """What a process of its own finds, or why not: out of memory, or what it says at last."""
    command = [sys.executable, __file__, "--peer", args.peer, "--steps", str(args.steps), *["--small"] * args.small, *["--cpu"] * args.cpu, "--worker", variant, str(batch)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    settings = {"PYTHONPATH": paths, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    if not done.returncode:
        return json.loads(done.stdout.splitlines()[-1])
    short = "RESOURCE_EXHAUSTED" in done.stderr or "OutOfMemory" in done.stderr
    return {"failed": "out of memory" if short else done.stderr[-3000:]}


def timed(step, steps):
    """Median, least and most seconds of a step after three that are not counted, and seconds of the first, which compiles."""
    begin = time.time()
    step()
    first = time.time() - begin
    step(), step()
    each, spent = [], time.process_time()
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        each.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(each), "cpu_seconds": (time.process_time() - spent) / steps, "seconds_least": min(each), "seconds_most": max(each),
            "first_step_seconds": first, "steps": steps}


def ours(args, variant, batch):
    import functools

    import jax
    import jax.numpy as jnp
    from jaxssl import config as configs
    from jaxssl.models import transformer
    from jaxssl.parallel import mesh as sharding, runtime
    from jaxssl.training import job as jobs, step as steps

    runtime.configure("off")
    overrides, cudnn = OURS[variant]
    if not cudnn:
        transformer.fused = lambda q: False
    size = SMALL if args.small else CPU if args.cpu else {}
    overrides = {"batch_size": batch, "method.mask_groups": 1, "method.koleo_groups": 1, "data.examples": 0, "data.classes": 0, **overrides, **size}
    config = configs.load(str(ROOT / "configs/imagenet/dinov2.py"), {key: str(value) for key, value in overrides.items()})
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), jobs.Facts(1_281_167, 0, config.data.canvas, False))
    state = job.init(jax.random.key_data(jax.random.key(0)))

    def crops(name, i):
        shape = job.seen[name]
        return jax.random.normal(jax.random.key(i), shape.shape, shape.dtype)

    given = {name: jnp.arange(batch, dtype=shape.dtype) if name == "id" else crops(name, i) if jnp.issubdtype(shape.dtype, jnp.floating) else jnp.zeros(shape.shape, shape.dtype)
             for i, (name, shape) in enumerate(job.seen.items())}
    step = jax.jit(functools.partial(steps.train_step, method=job.method, augment=lambda key, batch: batch, tx=job.optim.tx), donate_argnums=0)
    compiled = step.lower(state, given).compile()
    uses = "cudnn" if "__cudnn$fmha" in compiled.as_text() else "xla"
    metrics = {}

    def once():
        nonlocal state
        state, found = compiled(state, given)
        metrics.update({name: float(found[name]) for name in ("loss", "dino", "ibot", "koleo")})

    device = jax.devices()[0]
    result = timed(once, args.steps)
    sizes = compiled.memory_analysis()
    return {"device": device.device_kind, **result, "images_per_second": batch / result["seconds"], "attention": uses, "flops": job.flops(),
            "device_peak": (device.memory_stats() or {}).get("peak_bytes_in_use"), "compiled_bytes": sizes and sizes.argument_size_in_bytes + sizes.temp_size_in_bytes,
            **({"attention_error": attention_errors()} if uses == "cudnn" else {}), "overrides": overrides, "metrics": metrics}


def attention_errors():
    """Largest error of attention's value and gradients in bfloat16 over the largest of float32's, for both numbers of tokens: by cuDNN, as the network calls it, and by XLA."""
    import jax
    import jax.numpy as jnp
    from jaxssl.models import transformer

    def both(attend, *a):
        value, back = jax.vjp(attend, *a[:3])
        return value, *back(a[3].astype(value.dtype))

    errors = {}
    for count in (197, 37):
        exact = [jax.random.normal(jax.random.key(i), (4, count, 16, 64)).astype(jnp.bfloat16).astype(jnp.float32) for i in range(4)]
        with jax.default_matmul_precision("highest"):
            wanted = jax.jit(lambda *a: both(jax.nn.dot_product_attention, *a))(*exact)
        for name, attend in (("cudnn", lambda q, k, v: transformer.attention(q, k, v, None)), ("xla", jax.nn.dot_product_attention)):
            found = jax.jit(lambda *a, attend=attend: both(attend, *a))(*(x.astype(jnp.bfloat16) for x in exact))
            errors[f"{name}, {count} tokens"] = max(float(jnp.abs(x.astype(jnp.float32) - y).max() / jnp.abs(y).max()) for x, y in zip(found, wanted))
    return errors


def theirs(args, variant, batch):
    import torch
    from dinov2_peer import prepared

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True                            # as train/train.py sets it
    step, model = prepared(args.peer, SMALL_PEER if args.small else CPU_PEER if args.cpu else {}, batch, device, "float32" if args.cpu else "bfloat16")
    metrics = {}

    def once():
        metrics.update(step())
        if device.type == "cuda":
            torch.cuda.synchronize()

    result = timed(once, args.steps)
    return {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", **result, "images_per_second": batch / result["seconds"],
            "attention": "scaled_dot_product_attention", "device_peak": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
            "parameters": sum(p.numel() for p in model.student.parameters()), "metrics": metrics}


if __name__ == "__main__":
    main()
