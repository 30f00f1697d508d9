"""Released layouts go on training and back: DINOv2 with and without registers, DINOv3, MAE and DINO in Meta's, timm's and transformers' names, with random weights.

    PYTHONPATH=… python benchmarks/continued_layouts.py            # needs torch, torchvision, timm and transformers; some ten minutes on two cores

For each: a small network (64 channels, two blocks) is drawn by the library's own code, every tensor moved at random, and saved as that layout has it. The state of a run of
configs/folder/dinov2_continue.py:laptop begins with the file, and its first features are compared with the library's on the same images; then it goes on for 20 steps of the
encoder, is exported in the library's format, whose own check opens it with the library and compares again, and the names of both files are compared. A difference is the
largest of a feature over the largest feature of its image; the bar is 1e-5. Meta's names are timm's program with its tensors renamed, and for DINOv3 transformers'.
"""
import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from jaxssl import config as configs, export, tree  # noqa: E402
from jaxssl.encoder import initial, load as loading  # noqa: E402
from jaxssl.parallel import mesh as sharding  # noqa: E402
from jaxssl.training import job as jobs, train  # noqa: E402

WIDTH, DEPTH, HEADS, PATCH, IMAGE = 64, 2, 2, 8, 32
CASES = ("meta dinov2", "meta dinov2 registers", "meta dinov3", "meta dino", "meta mae", "timm dinov2", "timm dinov2 registers", "timm dino", "transformers dinov2",
         "transformers dinov2 registers", "transformers dinov3", "transformers dino", "transformers mae")
RECIPE = str(ROOT / "configs/folder/dinov2_continue.py:laptop")
SPARE = ("mask_token", "embeddings.mask_token", "pooler.", "decoder", "rope_embed.", "mask")        # of one file and not of the other: not read for features


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cases", default=",".join(CASES))
    flags.add_argument("--steps", type=int, default=20, help="of the encoder; heads have two alone before (default: %(default)s)")
    flags.add_argument("--out", default=str(ROOT / "benchmarks/results/continued_layouts.json"))
    args = flags.parse_args()
    file, rows = Path(args.out), {}
    for case in args.cases.split(","):
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows[case] = measure(case, Path(folder), args.steps)
            except Exception as error:           # of a library or ours: the row says so
                rows[case] = {"error": f"{type(error).__name__}: {str(error)[:600]}"}
        print(case, rows[case], flush=True)
        good = [row for row in rows.values() if "error" not in row]
        bars = {"rows": len(good), "of": len(rows), "largest_first_difference (bar 1e-5)": max((r["first"] for r in good), default=None),
                "largest_export_difference (bar 1e-5)": max((r["export"] for r in good if r["export"] is not None), default=None), "strict": all(r["strict"] for r in good)}
        found = {"command": "python benchmarks/continued_layouts.py", "steps": args.steps, "network": f"{WIDTH} channels, {DEPTH} blocks, patches of {PATCH} at {IMAGE} px",
                 "machine": machine("jax", "jaxlib", "torch", "timm", "transformers"), "rows": rows, "against_bars": bars}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(bars))


def measure(case: str, folder: Path, steps: int) -> dict:
    import torch
    start, (layout, kind) = time.perf_counter(), case.split(" ", 1)
    torch.manual_seed(0)
    features, tensors, model, place = {"timm": in_timm, "meta": in_meta, "transformers": in_transformers}[layout](torch, kind, folder)
    overrides = {**{f"model.{key}": str(value) for key, value in model.items()}, "model.heads": str(HEADS), "augment.size": str(IMAGE), "local.size": "16", "data.source": "digits",
                 "data.variant": "clean", "data.canvas": str(IMAGE), "init_from": str(place), "total": f"{steps + 2}_steps", "head_warmup": "2_steps", "warmup": "2_steps",
                 "method.mask_smallest": "1", "batch_size": "8", "eval.reference": "64", "eval.queries": "32", "report": "false", "log.tensorboard": "false"}
    config = configs.load(RECIPE, overrides)
    facts = jobs.Facts(1437, 10, IMAGE, True)
    config = configs.sized(config, facts.examples)
    job = jobs.prepare(config, sharding.make_mesh(devices=jax.devices()[:1]), facts)
    heads = tuple(job.method.heads)
    begun = initial.read(str(place), state=job.state, heads=heads, config=config, spare=(*heads, "encoder/mask"))
    state = initial.place(job.init(np.asarray(jax.random.key_data(jax.random.key(0)))), begun, job.state_sharding)
    x = np.random.default_rng(0).normal(size=(8, IMAGE, IMAGE, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(lambda s, x: job.method.embed(s.params, s.aux, x).pooled)(state, x))
    with torch.inference_mode():
        theirs = features(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    train.run(RECIPE, overrides, str(folder / "run"))
    ended, source = loading.load(folder / "run"), loading.load(place)
    moved = max(float(np.abs(a - tree.names(source.variables)[name]).max()) for name, a in tree.names(ended.variables).items() if name in tree.names(source.variables))
    library = "transformers" if layout == "transformers" or kind == "dinov3" else "timm"
    out = export.run(workdir=str(folder / "run"), format=library, out=str(folder / "out"), images=8)
    from safetensors.numpy import load_file
    back = set(load_file(folder / "out" / "model.safetensors"))
    compared = {name for name in tensors if not name.startswith(SPARE) and "bias_mask" not in name}
    lost = sorted(compared ^ {name for name in back if not name.startswith(SPARE)}) if layout == library else []
    return {"first": export.relative(theirs, ours), "export": out["difference"], "moved": moved, "strict": not lost, "lost": lost[:5], "tensors": len(tensors),
            "unread": list(source.origin.unused)[:5], "seconds": round(time.perf_counter() - start, 1), "load": round(os.getloadavg()[0], 1)}


def shaken(torch, model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


def saved(torch, tensors: dict, folder: Path, name: str = "model.safetensors") -> dict:
    from safetensors.torch import save_file
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, folder / name)
    return tensors


def of_timm(torch, kind: str):
    """(network of timm, arguments, keys of ours)."""
    import timm
    more = {"dinov2": {"init_values": 1e-5}, "dinov2 registers": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}}.get(kind, {})
    arguments = {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, **more}
    model = shaken(torch, timm.create_model("vit_small_patch16_224", num_classes=0, **arguments))
    own = {"patch": PATCH, "image": IMAGE, "width": WIDTH, "depth": DEPTH, "layer_scale": "1e-5" if kind.startswith("dinov2") else "0.", "resize": "antialias",
           "registers": 4 if "registers" in kind else 0}
    return model, arguments, own


def in_timm(torch, kind: str, folder: Path):
    model, arguments, own = of_timm(torch, kind)
    tensors = saved(torch, model.state_dict(), folder / "theirs")
    stated = {key: model.pretrained_cfg[key] for key in ("input_size", "interpolation", "crop_pct", "mean", "std") if key in model.pretrained_cfg}
    text = {"architecture": "vit_small_patch16_224", "num_classes": 0, "model_args": arguments, "pretrained_cfg": {**stated, "input_size": [3, IMAGE, IMAGE]}}
    (folder / "theirs" / "config.json").write_text(json.dumps(text))
    return model, tensors, own, folder / "theirs"


def in_meta(torch, kind: str, folder: Path):
    """timm's program under the names of the files of DINO, DINOv2, MAE; transformers' DINOv3 under those of DINOv3's."""
    if kind == "dinov3":
        return meta_dinov3(torch, folder)
    model, _, own = of_timm(torch, kind)
    tensors = dict(model.state_dict())
    if "registers" in kind:                      # the class token's position is apart there, and registers have none
        tensors["register_tokens"] = tensors.pop("reg_token")
        tensors["pos_embed"] = torch.cat([torch.zeros_like(tensors["cls_token"]), tensors["pos_embed"]], 1)
    if kind.startswith("dinov2"):
        tensors["mask_token"] = torch.randn(1, WIDTH)
        own["resize"] = "antialias" if "registers" in kind else "torch"
    if kind == "mae":
        tensors |= {"mask_token": torch.randn(1, 1, 32), "decoder_pos_embed": torch.randn(1, 17, 32), "decoder_embed.weight": torch.randn(32, WIDTH)}
    saved(torch, tensors, folder, "meta.safetensors")
    return model, tensors, own, folder / "meta.safetensors"


def meta_dinov3(torch, folder: Path):
    features, theirs, own, _ = in_transformers(torch, "dinov3", folder)
    plain = {"embeddings.cls_token": "cls_token", "embeddings.register_tokens": "storage_tokens", "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
             "embeddings.patch_embeddings.bias": "patch_embed.proj.bias", "norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    words = {"norm1": "norm1", "norm2": "norm2", "attention.o_proj": "attn.proj", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}
    tensors = {ours: theirs[name] for name, ours in plain.items()} | {"mask_token": theirs["embeddings.mask_token"][0]}
    heads = WIDTH // HEADS // 4
    tensors["rope_embed.periods"] = 100 ** (torch.arange(heads) / heads)
    for i in range(DEPTH):
        block = {name.removeprefix(f"layer.{i}."): tensor for name, tensor in theirs.items() if name.startswith(f"layer.{i}.")}
        tensors |= {f"blocks.{i}.{ours}.{leaf}": block[f"{name}.{leaf}"] for name, ours in words.items() for leaf in ("weight", "bias")}
        tensors |= {f"blocks.{i}.ls{n}.gamma": block[f"layer_scale{n}.lambda1"] for n in (1, 2)}
        tensors[f"blocks.{i}.attn.qkv.weight"] = torch.cat([block[f"attention.{n}_proj.weight"] for n in "qkv"])
        q, v = (block[f"attention.{n}_proj.bias"] for n in "qv")
        tensors[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.ones_like(q), v])                      # that of keys does not count
        tensors[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([torch.ones_like(q), torch.zeros_like(q), torch.ones_like(v)])
    saved(torch, tensors, folder, "meta.safetensors")
    return features, tensors, own, folder / "meta.safetensors"


def in_transformers(torch, kind: str, folder: Path):
    import transformers
    shape = dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, patch_size=PATCH, image_size=IMAGE)
    name, more = {"dinov2": ("Dinov2", {}), "dinov2 registers": ("Dinov2WithRegisters", {"num_register_tokens": 4}), "dino": ("ViT", {"intermediate_size": 4 * WIDTH}),
                  "mae": ("ViTMAE", {"intermediate_size": 4 * WIDTH, "mask_ratio": 0.0}),
                  "dinov3": ("DINOv3ViT", {"intermediate_size": 4 * WIDTH, "num_register_tokens": 4})}[kind]
    model = shaken(torch, getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**shape, **more)))
    model.save_pretrained(folder / "theirs")
    from safetensors.torch import load_file
    own = {"patch": PATCH, "image": IMAGE, "width": WIDTH, "depth": DEPTH, "layer_scale": "1e-5" if kind.startswith("dinov") else "0.",
           "registers": 4 if kind in ("dinov2 registers", "dinov3") else 0, "resize": "torch" if kind == "dinov2" else "antialias"}
    own |= {"positions": "rope", "key_bias": "False"} if kind == "dinov3" else {}
    own |= {"eps": {"dinov3": "1e-5", "dino": "1e-12", "mae": "1e-12"}[kind]} if kind in ("dinov3", "dino", "mae") else {}
    return (lambda x: model(x).last_hidden_state[:, 0]), load_file(folder / "theirs" / "model.safetensors"), own, folder / "theirs"


if __name__ == "__main__":
    main()
