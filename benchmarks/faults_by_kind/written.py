"""What a person writes: numbers of a config, words of flags, variables and files, and sizes."""
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults_by_kind.tools import CODES, CONFIGS, DIGITS, ROOT, TINY, Fault, begins, flags, kind, process


@kind
def numbers(_: Path) -> Iterator[Fault]:
    """Every numeric key of every section, and of every optimizer, with what no such key can mean."""
    from jaxssl import config as configs, optim
    seen = set()
    specs = [(spec, {}) for spec in CONFIGS] + [(DIGITS, {"optim.name": name}) for name in optim.families()]
    for spec, changes in specs:
        config = configs.load(str(ROOT / spec), changes)
        more = [f"--config.{key}={value}" for key, value in changes.items()]
        for path, value in numeric(config):
            if (path, config.method.name if path.startswith("method.") else config.model.name if path.startswith("model.") else "") in seen:
                continue
            seen.add((path, config.method.name if path.startswith("method.") else config.model.name if path.startswith("model.") else ""))
            for bad in ("nan", "inf", "-inf", "-1", "-0.5", "1e40", "1" + "0" * 30, "9" * 5000):
                if bad in ("-1", "-0.5") and path in ("data.workers",):
                    continue
                text = bad if not isinstance(value, tuple) or not value else repr((*value[:-1], 0)).replace("0)", f"{bad})")
                yield Fault(f"{path}={bad if len(bad) < 40 else 'a number of 5,000 digits'} ({config.method.name})", begins(f"--config.{path}={text}", *more, config=spec))


def numeric(config: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of every key that takes numbers: by the values that the signatures give them."""
    from jaxssl import config as configs
    for path in configs.paths(config):
        value = configs.config_get(config, path)
        like = value[0] if isinstance(value, tuple) and value else value
        if isinstance(like, int | float) and not isinstance(like, bool) or path in configs.DURATIONS or path in ("optim.lr_steps", "optim.weight_decay_end"):
            yield path, value


@kind
def words(folder: Path) -> Iterator[Fault]:
    """Variables, flags and files that hold no number, or no text, where one is expected."""
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}
    for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS"):
        for value in ("", "two", "1.5", "-3", "²", "9" * 30, "nan", "2(x3)"):
            yield Fault(f"{name}={value!r} of a job of two", begins("--join_timeout=1", **{**slurm, name: value}), works=(name, value) == ("SLURM_NTASKS", ""))
    yield Fault("SLURM_NTASKS=x alone", begins(SLURM_NTASKS="x"), works=True)
    for value in ("", "[", "a[", "a[]", "a[1-", "\x1b[31m", "a b", "," * 40):
        yield Fault(f"SLURM_STEP_NODELIST={value!r}", begins("--join_timeout=1", **{**slurm, "SLURM_STEP_NODELIST": value, "SLURM_PROCID": "1"}))
    for value in ("abc", "0", "-1", "99999", "1e3", "²"):
        yield Fault(f"JAX_COORDINATOR_PORT={value!r} under Slurm", begins("--join_timeout=1", **{**slurm, "JAX_COORDINATOR_PORT": value, "SLURM_PROCID": "1"}))
    tpu = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}
    for name in ("TPU_WORKER_ID", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "JAX_COORDINATOR_PORT"):
        for value in ("two", "-1", "1.5", "²", "9" * 30):
            yield Fault(f"{name}={value!r} of a pod", begins("--join_timeout=1", **{**tpu, name: value}))
    for value in ("10", "a:b", "1:", ":2", "2:1", "²:³", "-1:2", "1:1e9", "0:" + "9" * 5000, "1:2:3", "nan:inf", "1.5:2", " 1:2", "1_0:2_0"):
        yield Fault(f"--profile_steps={value[:20]}", begins(f"--profile_steps={value}"))
    for flag, values in {"--processes": ("two", "-1", "9" * 30, "1.5"), "--process_id": ("x", "-7", "9" * 30), "--join_timeout": ("soon", "nan", "-1", "9" * 30, "0"),
                         "--coordinator": ("host", "host:", ":1", "host:²", "host:99999", "host:-1", "h:1:2", "\x1b[2J:8")}.items():
        for value in values:
            others = [f"{name}={good}" for name, good in (("--processes", 2), ("--process_id", 1), ("--coordinator", "localhost:9"), ("--join_timeout", 1)) if name != flag]
            yield Fault(f"{flag}={value!r:.30}", begins(f"{flag}={value}", *others))
    yield from _config_files(folder)
    for pattern in ("(a+)+$", "(", "[", "(?P<x", "*", r"(\w*)*\d#", "(.*)*.*!", "(x?){60}x{60}", "a{1,99999999999}", "(" * 5000):
        yield Fault(f"optim.rules with the pattern {pattern[:20]}", begins(f"--config.optim.rules=(({pattern!r},{{'decay':0.0}}),)"))
    for value in ("{'decay': float('nan')}", "{'decay':1e999}", "{'rate':-1}", "{'frozen_until':1e30}", "{'rate':True}", "{1:2}", "{}", "{'adam':1e40}"):
        yield Fault(f"optim.rules with the settings {value}", begins(f"--config.optim.rules=(('kernel$',{value}),)"))
    for name, value in (("JAX_PLATFORMS", "abacus"), ("JAX_PLATFORMS", "cuda"), ("JAX_PLATFORMS", "\x1b[31m"), ("JAX_ENABLE_X64", "maybe"), ("JAX_DEFAULT_PRNG_IMPL", "dice"),
                        ("JAX_NUM_CPU_DEVICES", "many"), ("JAX_TRACEBACK_FILTERING", "yes please"), ("NPROC", "many")):
        given = process("jaxssl.main", "--config", DIGITS, "--workdir", str(folder / "w"), *flags(TINY), **{name: value})
        yield Fault(f"{name}={value!r}", given, works=name in ("NPROC", "JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL"))       # the last two are not the environment's to say


def _config_files(folder: Path) -> Iterator[Fault]:
    """Configs that are no config."""
    good = "from ml_collections import ConfigDict\ndef get_config(variant=''):\n    return "
    for number, (what, text) in enumerate({
            "is empty": "", "exits": "import sys; sys.exit(0)", "exits with a text": "raise SystemExit('bye\\n')", "exits in get_config": "def get_config(v=''):\n    exit()",
            "interrupts": "raise KeyboardInterrupt", "raises GeneratorExit": "raise GeneratorExit", "is no UTF-8": b"\xff\xfe", "holds a zero byte": b"x=1\0",
            "recurs for ever": "def f(): f()\nf()", "takes no variant": "def get_config(): pass", "returns None": "def get_config(v=''): pass",
            "get_config is a number": "get_config = 3",
            "returns a dict": good.replace("return", "return {}  #"), "keys are numbers": good + "ConfigDict({1: 2})",
            "a section's keys are numbers": good + "ConfigDict({'optim': {1: 2}})",
            "keys are bytes": good + "ConfigDict({b'a': 2})", "a key is empty": good + "ConfigDict({'': 2})", "a section is a list": good + "ConfigDict(dict(optim=[1]))",
            "names a method by a number": good + "ConfigDict(dict(method=dict(name=3)))", "names a method by a path": good + "ConfigDict(dict(method=dict(name='../x')))",
            "names an optimizer by a list": good + "ConfigDict(dict(method=dict(name='simclr'), optim=dict(name=['lars'])))",
            "sets a key to itself": good + "(lambda c: (c.update(a=c), c)[1])(ConfigDict())", "a value is a set": good + "ConfigDict(dict(method=dict(name='simclr'), seed={1}))",
            "a value is a function": good + "ConfigDict(dict(method=dict(name='simclr'), init_from=print))",
            "a value is NaN": good + "ConfigDict(dict(method=dict(name='simclr'), ema=float('nan')))",
            "a rate is complex": good + "ConfigDict(dict(method=dict(name='simclr'), optim=dict(lr=1j)))",
            "a name is bytes": good + "ConfigDict(dict(method=dict(name='simclr'), data=dict(path=b'x')))",
            "VARIANTS is a number": "VARIANTS = 3\n" + good + "ConfigDict()", "its error speaks to the terminal": "raise ValueError('\\x1b[2J\\nboo')",
            "PUBLISHED is a list": "PUBLISHED = [1]\n" + good + "ConfigDict(dict(method=dict(name='simclr')))"}.items()):
        file = folder / f"c{number}.py"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield Fault(f"a config file {what}" if what.startswith(("is", "exits", "interrupts", "raises", "holds", "recurs", "takes", "returns", "sets", "names")) else
                    f"a config file where {what}", begins(config=str(file)), codes=(*CODES, 130) if what == "interrupts" else CODES)
    (folder / "fifo.py").exists() or os.mkfifo(folder / "fifo.py")
    (folder / "folder.py").mkdir(exist_ok=True)
    for what in ("fifo.py", "folder.py", "gone.py", "c0.txt", "x" * 300 + ".py", "a\0b.py", ""):
        yield Fault(f"--config is {what[:20]!r}", begins(config=str(folder / what) if what else ""))


@kind
def sizes(folder: Path) -> Iterator[Fault]:
    """What no machine holds: refused before anything is compiled, decoded or claimed, with a number that would fit."""
    for key, values in {"batch_size": ("1504", "1000000"), "augment.views": ("100", "1000", "100000"), "augment.size": ("5000", "100000"), "data.canvas": ("5000", "100000",
                                                                                                                                                           "2000000000"),
                        "method.hidden": ("1000000", "1000000000", "2147483647"), "method.dim": ("1000000000",), "method.layers": ("1000", "100000"), "model.width": ("100",
                                                                                                                                                                      "10000",
                                                                                                                                                                      "1e8"),
                        "eval.batch": ("10000000", "2147483647"), "data.workers": ("2000", "2147483647"), "local.views": ("1000", "2147483647"), "local.size": ("100000",),
                        "model.bn_groups": ("2147483647",), "augment.blur_kernel": ("2147483647", "2147483646"), "total": ("2147483648", "1e300_epochs"),
                        "method.block": ("2147483647",),
                        "eval.rank_samples": ("2147483647",), "eval.reference": ("2147483647",), "data.resident_gb": ("1e9",), "mesh.fsdp": ("2147483647",)}.items():
        for value in values:
            more = {"augment.size": ["--config.data.canvas=" + value], "local.size": ["--config.local.views=8"], "data.canvas": ["--config.data.resident=no"],
                    "augment.views": ["--config.batch_size=1504"], "eval.batch": ["--config.eval.raw=false"]}.get(key, [])
            # A bound lies far below what training takes: what may pass it is refused once it is compiled, or trains.
            either = (key, value) in {("augment.views", "100"), ("augment.views", "1000"), ("method.hidden", "1000000")}
            harmless = key in ("eval.rank_samples", "eval.reference", "data.resident_gb") or (key, value) in {("batch_size", "1504"), ("method.block", "2147483647"),
                                                                                                              ("augment.blur_kernel", "2147483647")}
            yield Fault(f"{key}={value}", begins(f"--config.{key}={value}", *more), works=None if either else harmless)
    for key, values in {"model.width": ("1000000", "2147483644"), "model.depth": ("100000",), "model.registers": ("100000000",), "model.image": ("1000000",),
                        "method.width": ("2147483644",),
                        "method.depth": ("1000000",), "method.heads": ("2147483647",), "model.patch": ("2147483647",)}.items():
        for value in values:
            learned = ["--config.model.positions=learned"] if key == "model.image" else []
            yield Fault(f"{key}={value} of MAE", begins(f"--config.{key}={value}", *learned, config="configs/digits/mae.py"))
    for key in ("prototypes", "hidden", "bottleneck", "layers"):
        yield Fault(f"method.{key}=2147483647 of DINO", begins(f"--config.method.{key}=2147483647", config="configs/digits/dino.py"))
    for name, value in (("--devices", "100000"), ("--devices", "-1"), ("--devices", "9" * 30), ("--topology", "v5e:999999x999999"), ("--topology", "v5e:²x2"), ("--topology",
                                                                                                                                                                "v5e:0x0")):
        yield Fault(f"plan {name}={value[:20]}", process("jaxssl.plan", "--config", DIGITS, f"{name}={value}"))
