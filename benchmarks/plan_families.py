"""What the TPU compiler says of one recipe of each family on v5e:16x16: whether it fits, roofline, and operations and bytes an image beside SimCLR's.

    python benchmarks/plan_families.py [NAME …]      # needs the extra 'tpu', no TPU; adds to benchmarks/results/plan_families.json

"over arithmetic" is the compiled step's operations over those of the loss and its gradient (`jaxssl.plan` without a topology), all devices together; "HBM bytes an
operation" divides the traffic to and from HBM by the latter. Bars: each fits; neither figure above 1.3 times SimCLR's.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks/results/plan_families.json"
RECIPES = {
    "SimCLR, ResNet-50, 4096": ("simclr", {}),
    "BYOL, ResNet-50, 4096": ("byol", {"batch_size": "4096"}),
    "MoCo v3, ViT-B/16, 4096": ("moco_v3:vit_base", {"batch_size": "4096"}),
    "DINO, ViT-S/16, 2 + 10 crops, 1024": ("dino", {"batch_size": "1024", "local.views": "10"}),
    "SwAV, ResNet-50, 2 + 6 crops, 4096": ("swav", {"batch_size": "4096"}),
    "VICReg, ResNet-50, 2048": ("vicreg", {"batch_size": "2048"}),
    "Barlow Twins, ResNet-50, 2048": ("barlow_twins", {"batch_size": "2048"}),
    "ArcFace, 10 M classes x 512, ResNet-50, 4096": ("metric", {"batch_size": "4096", "method.loss": "arcface", "method.margin": "28.6", "data.classes": "10000128"}),
    "DINOv2, ViT-L/16 short, 2 + 8 crops, 2048": ("dinov2", {}),
}


def plan(spec, overrides, *flags):
    name, _, variant = spec.partition(":")
    config = f"configs/imagenet/{name}.py" + (f":{variant}" if variant else "")
    command = [sys.executable, "-m", "jaxssl.plan", "--config", config, "--json", *(f"--config.{k}={v}" for k, v in overrides.items()), *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def row(spec, overrides):
    compiled, arithmetic = plan(spec, overrides, "--topology", "v5e:16x16"), plan(spec, overrides)["flops"]
    batch, devices, memory = compiled["batch_size"], compiled["devices"], compiled["memory"]
    found = {"config": spec, "overrides": overrides, "fits": compiled["fits"], "GB a device": round(memory["total"] / 1e9, 2),
             "compile seconds": round(compiled["compile_seconds"])}
    if "flops" not in compiled:
        return found
    time = compiled["time"]
    return {**found, "GFLOP an image": round(compiled["flops"] * devices / batch / 1e9, 1), "GFLOP an image, arithmetic": round(arithmetic / batch / 1e9, 1),
            "over arithmetic": round(compiled["flops"] * devices / arithmetic, 3), "MB an image to or from HBM": round(compiled["hbm_bytes"] * devices / batch / 1e6, 1),
            "HBM bytes an operation": round(compiled["hbm_bytes"] * devices / arithmetic, 5), "images/s": round(time["images_per_second"]),
            "images/s at best": round(time["images_per_second_at_best"]), "device-hours": round(time["device_hours"], 1), "epochs": round(compiled["schedule"]["epochs"], 1)}


def main():
    wanted = sys.argv[1:]
    result = json.loads(OUT.read_text()) if OUT.exists() else {"command": "python benchmarks/plan_families.py", "rows": {}}
    for name, (spec, overrides) in RECIPES.items():
        if wanted and spec.partition(":")[0] not in wanted:
            continue
        result["rows"][name] = row(spec, overrides)
        base = result["rows"].get(next(iter(RECIPES)), {})
        for key in ("over arithmetic", "HBM bytes an operation"):
            if key in base and key in result["rows"][name]:
                result["rows"][name][f"{key}, of SimCLR's"] = round(result["rows"][name][key] / base[key], 3)
        print(name, json.dumps(result["rows"][name], indent=1), flush=True)
        result["machine"] = machine("jax", "jaxlib", "flax", "libtpu")
        OUT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
