"""The house stays in order: imports point one way, every config key is read, every shipped config builds and matches its golden text."""
import ast
import functools
import inspect
import os
import re
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.core import ShapedArray
from jax.extend.core import Literal, Primitive
from scipy.stats import truncnorm

from jaxssl import config as configs, config_keys, models, tree
from jaxssl.training import job as jobs
from jaxssl.parallel import mesh as sharding
from jaxssl.errors import UserError
from tests.tiny import CONFIGS, METHODS, ROOT

PACKAGE = ROOT / "jaxssl"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
GROUND = ("command", "config", "config_file", "config_keys", "durations", "errors", "optim", "schedules", "startup", "tree", "typed")
COMMANDS = ("main", "evaluate", "export", "convert", "look", "plan", "search", "study", "table", "curate", "recipe")
# The walls: which rooms a room's files may import besides their own; every file may import errors, and the commands may import anything.
WALLS = {
    "losses": "", "planning": "", "models": "", "data": "", "augment": "",
    "methods": "augment losses models schedules tree",
    "parallel": "config startup tree",
    "workdir": "config parallel tree",
    "encoder": "augment methods models tree workdir",
    "evaluation": "augment config data durations encoder models optim parallel tree typed workdir",
    "report": "augment data durations encoder evaluation models workdir",
    "gallery": "data encoder evaluation parallel report workdir",
    "training": "augment config config_keys data durations encoder evaluation methods models optim parallel planning report schedules tree workdir",
    "advice": "data",
    "curation": "config_file data encoder evaluation gallery parallel report workdir",
    "studies": "config config_file config_keys data durations encoder evaluation report training workdir",
    # the ground
    "command": "", "config": "config_file config_keys durations typed", "config_file": "", "config_keys": "",
    "typed": "", "durations": "", "errors": "", "optim": "schedules tree", "schedules": "", "startup": "", "tree": "",
}
ONLY = {"flax": {"models"}, "orbax": {"workdir"}, "tensorboardX": {"workdir"}, "wandb": {"workdir"}, "grain": {"data"}, "array_record": {"data"}, "tensorflow_datasets": {"data"}}


def imported(file):
    """Module names a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names] if node.module.startswith("jaxssl") else []
            yield from [name if module_file(name) else node.module for name in whole] or [node.module]


def module_file(name):
    """The file of a module of ours; None where there is none."""
    place = PACKAGE.parent / Path(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def room(file):
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_one_way(file):
    here = room(file)
    for name in imported(file):
        top = name.split(".")[0]
        if top in ONLY:
            assert here in ONLY[top], f"{file.name} imports {name}; only {ONLY[top]} may"
        if top == "jaxssl" and name != "jaxssl" and here not in (*COMMANDS, "__init__") and file.stem != "__main__":
            other = name.split(".")[1]
            assert other in (here, "errors", *WALLS[here].split()), f"{file.relative_to(PACKAGE)} imports {name}"


def test_every_room_is_in_the_table():
    assert {room(f) for f in FILES} - {*COMMANDS, "__init__"} == set(WALLS)
    assert {f.stem for f in PACKAGE.glob("*.py")} == {*GROUND, *COMMANDS, "__init__"} - {name for name in GROUND if (PACKAGE / name).is_dir()}


def test_no_two_files_import_each_other():
    """Also not by way of others: an import circle has no order in which it could be read. Imports inside functions count."""
    arrows = {file: {module_file(name) for name in imported(file)} - {None, file} for file in FILES}
    while leaves := [file for file, others in arrows.items() if not others & arrows.keys()]:
        for file in leaves:
            del arrows[file]
    assert not arrows, "\n".join(f"{file.relative_to(PACKAGE)} → {', '.join(str(o.relative_to(PACKAGE)) for o in others & arrows.keys())}" for file, others in arrows.items())


def test_no_tensorflow_torch_or_pickle_anywhere():
    for file in FILES:
        names = {name.split(".")[0] for name in imported(file)}
        assert not names & {"tensorflow", "torch", "pickle", "cloudpickle", "dill"}, file


def readers():
    """(section, function) of every function that config keys go to."""
    spec = configs.load("configs/digits/simclr.py")
    for section in config_keys.SECTIONS:
        for method in METHODS if section == "method" else [None]:
            if method:
                spec = configs.load("configs/digits/simclr.py", {"method.name": method})
            yield from ((section, function) for function in config_keys.functions(section, spec))
    for section in config_keys.FAMILIES:
        yield from ((section, function) for function in dict.fromkeys(config_keys.named(config_keys.FAMILIES[section])().values()))


@pytest.mark.parametrize("section, function", list(readers()), ids=lambda x: x if isinstance(x, str) else x.__module__)
def test_every_key_is_read(section, function):
    """A keyword of a configured function that its body never names is a dead switch."""
    target = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    body = ast.parse(textwrap.dedent(inspect.getsource(target))).body
    names = {node.id for top in body for node in ast.walk(top) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if "locals" in names:  # all keywords are checked together there
        return
    dead = [p.name for p in inspect.signature(target).parameters.values() if p.default is not p.empty and p.name not in names]
    assert not dead, f"{function.__module__}: {dead}"


def test_every_shared_key_is_read():
    text = {f.stem: f.read_text() for f in FILES if f.parent.name == "training" and f.stem in ("train", "job", "session", "mixed")}
    for key in inspect.signature(configs.settings).parameters:
        named = key in ("log_every", "eval_every", "checkpoint_every") and f'due("{key}")' in text["session"]
        assert named or re.search(rf"\bconfig\.{key}\b", "".join(text.values())), key


def variants():
    for path in CONFIGS:
        for variant in ("", *configs_module(path).VARIANTS):
            yield f"{path}:{variant}" if variant else path


def configs_module(path):
    scope = {}
    exec(compile((ROOT / path).read_text(), path, "exec"), scope)  # our own config files
    return type("Config", (), scope)


@pytest.mark.parametrize("path", CONFIGS)
def test_config_is_documented_and_has_a_laptop_variant(path):
    module = configs_module(path)
    for word in ("Command:", "Hardware:", "Expected:", "Variants:", "--workdir"):
        assert word in module.__doc__, word
    assert "laptop" in module.VARIANTS and all(v in module.__doc__ for v in module.VARIANTS)


SIGNS = Primitive("signs")          # as good as random: +1 and −1
SIGNS.def_abstract_eval(lambda *, shape, dtype: ShapedArray(shape, dtype))


def signs(shape, dtype):
    return SIGNS.bind(shape=tuple(shape), dtype=jax.dtypes.canonicalize_dtype(dtype))


# What stands in for jax.random's where only mean and spread are asked for: compiling the real ones for every parameter is what such a test would cost.
STAND_INS = {
    "normal": lambda key, shape=(), dtype=float, **_: signs(shape, dtype),
    "uniform": lambda key, shape=(), dtype=float, minval=0.0, maxval=1.0, **_: ((maxval + minval) / 2 + (maxval - minval) / 12**0.5 * signs(shape, float)).astype(dtype),
    "truncated_normal": lambda key, lower, upper, shape=(), dtype=float, **_: (truncnorm.mean(lower, upper) + truncnorm.std(lower, upper) * signs(shape, float)).astype(dtype),
}
MOVED = ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "copy", "copy_p")
COMPUTED = {"mul": np.multiply, "add": np.add, "sub": np.subtract, "div": np.true_divide, "neg": np.negative, "sqrt": np.sqrt, "integer_pow": np.power, "pow": np.power}


def numbers(closed):
    """output → the numbers that it holds, each once or as often as another, of a program that draws by `STAND_INS` and does nothing with it but what stands in `MOVED` and `COMPUTED`.
    What another output needs is not looked at; of a scan, whose steps are alike, one step."""
    def inside(jaxpr, given):
        makers = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}

        def of(variable):
            if isinstance(variable, Literal):
                return np.ravel(variable.val)
            if variable in given:
                return given[variable]()
            equation = makers[variable]
            kind, sources, keys = equation.primitive.name, [functools.partial(of, each) for each in equation.invars], equation.params
            if kind == "signs":
                return np.array([1, -1], keys["dtype"])
            if kind in MOVED:
                return sources[0]().astype(variable.aval.dtype)
            if kind in COMPUTED:
                return COMPUTED[kind](*(source() for source in sources), *([keys["y"]] if "y" in keys else []))
            body = keys.get("jaxpr") or keys["call_jaxpr"]
            return program(body, sources)(equation.outvars.index(variable))
        return of

    def program(body, sources):
        jaxpr, consts = getattr(body, "jaxpr", body), getattr(body, "consts", ())
        given = dict(zip(jaxpr.invars, sources)) | {variable: functools.partial(np.ravel, value) for variable, value in zip(jaxpr.constvars, consts)}
        of = inside(jaxpr, given)
        return lambda place: of(jaxpr.outvars[place])
    return program(closed, [None] * len(closed.jaxpr.invars))


@functools.cache
def network(module, init=models.Net.init):
    """`Net.init`, traced once for all recipes that have the network on images of the same size."""
    return jax.jit(lambda key, x, how: init(models.Net(module), key, x, **how))


def prepared(config, mesh, facts, monkeypatch):
    """(job, parameter → "zeros", "ones", "all" of another number, or the spread of values drawn around zero to one digit), from one trace of `init`."""
    traced = []

    def shapes(method, config, seen):
        closed, found = jax.make_jaxpr(lambda key: method.init(key, jobs.zeros(jobs.few(config, seen))), return_shape=True)(jax.eval_shape(jax.random.key, 0))
        traced.append(closed)
        return found
    with monkeypatch.context() as patched:
        for name, stand_in in STAND_INS.items():
            patched.setattr(jax.random, name, stand_in)
            patched.setattr(jax._src.random, name, stand_in)      # the same functions, where jax.nn.initializers find them
        patched.setattr(jobs, "initial_shapes", shapes)
        patched.setattr(models.Net, "init", lambda net, key, x, **how: network(net.module)(key, x, how))
        job = jobs.prepare(config, mesh, facts)
    drawn, = map(numbers, traced)
    return job, {name: in_words(drawn(place)) for place, name in enumerate(tree.names(job.state.params))}


def in_words(found):
    if np.ptp(found) == 0:
        return {0: "zeros", 1: "ones"}.get(found[0], f"all {found[0]:g}")
    assert abs(found.mean()) < 1e-6 * found.std()
    return f"±{found.std():.0e}"


def folded(lines):
    """`lines`, path → what is said of it, as text; neighbours that differ in one number of their names and in nothing below, blocks of a stage, are one: "block1..3 … ×3"."""
    root = {}
    for path, said in lines.items():
        *above, last = path.split("/")
        functools.reduce(lambda node, part: node.setdefault(part, {}), above, root)[last] = said

    def walk(node):
        """(path, said, how many) of all below."""
        if not isinstance(node, dict):
            return [("", node, 1)]
        runs = []                                             # (stem, first, last, what is below)
        for part, below in node.items():
            stem, number = re.fullmatch(r"(.*?)(\d*)", part).groups()
            rows = walk(below)
            if number and runs and runs[-1][0] == stem and runs[-1][3] == rows and runs[-1][2] == int(number) - 1:
                runs[-1][2] = int(number)
            else:
                runs.append([stem, *([int(number)] * 2 if number else [None, None]), rows])
        return [(f"{stem}{'' if first is None else first if first == last else f'{first}..{last}'}/{path}".rstrip("/"), said, n * (1 if first is None else last - first + 1))
                for stem, first, last, rows in runs for path, said, n in rows]
    return [f"{path}  {said}" + (f"  ×{n}" if n > 1 else "") for path, said, n in walk(root)]


def test_equal_blocks_are_folded():
    lines = {f"a/block{i}/{kind}{j}": f"{kind} {i > 1}" for i in (0, 1, 2, 3, 5) for kind in ("conv", "norm") for j in (1, 2)} | {"head": "x"}
    assert folded(lines) == ["a/block0..1/conv1..2  conv False  ×4", "a/block0..1/norm1..2  norm False  ×4", "a/block2..3/conv1..2  conv True  ×4", "a/block2..3/norm1..2  norm True  ×4",
                             "a/block5/conv1..2  conv True  ×2", "a/block5/norm1..2  norm True  ×2", "head  x"]


def settings(group):
    return " ".join(f"{key}={value:g}" if type(value) in (int, float) else f"{key}={value}" for key, value in group.items())


def classes(config):
    """Those that it says, or ten, or as many as its sampler needs for a batch."""
    return config.data.classes or max(10, config.batch_size // config.data.per_class if config.data.sampler == "m_per_class" else 0)


def golden(spec, monkeypatch):
    """The text of a config, from shapes alone: schedule, optimizer, for every parameter shape, initial values, the optimizer's settings and sharding, and the rest of the state."""
    config = configs.load(spec)
    mesh = sharding.make_mesh(devices=jax.devices(), **config.mesh)
    examples = config.data.examples or 10_000
    job, start = prepared(config, mesh, jobs.Facts(examples, classes(config), config.data.canvas, False), monkeypatch)
    placed = job.state_sharding
    lines = [f"{job.total} steps, {job.warmup} of warm-up, batch {config.batch_size}, {config.precision}", *(f"optim.{key} {value!r}" for key, value in config.optim.items()),
             *(f"step {at}: lr {job.optim.schedule(at):.6g}, weight decay {job.optim.weight_decay(at):.6g}" for at in (0, job.warmup, job.total // 2, job.total))]
    params = {name: f"{tuple(leaf.shape)} {leaf.dtype}  {start[name]}  {settings(job.optim.groups[name])}  {place.spec}"
              for (name, leaf), place in zip(tree.names(job.state.params).items(), jax.tree.leaves(placed.params))}
    aux = {name: f"{tuple(leaf.shape)} {leaf.dtype}  {place.spec}" for (name, leaf), place in zip(tree.names(job.state.aux).items(), jax.tree.leaves(placed.aux))}
    return "\n".join([*lines, "", *folded(params), "", *folded(aux), ""])


@pytest.mark.parametrize("spec", [v for v in variants() if not v.endswith(":laptop")])
def test_config_equals_its_golden_text(spec, monkeypatch):
    """A recipe change shows in the diff of tests/goldens/configs. UPDATE_GOLDENS=1 rewrites them."""
    file = ROOT / "tests" / "goldens" / "configs" / (spec.removeprefix("configs/").replace("/", "_").replace(".py", "").replace(":", "_") + ".txt")
    text = golden(spec, monkeypatch)
    if os.environ.get("UPDATE_GOLDENS"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert file.exists(), f"no golden text for {spec}; run UPDATE_GOLDENS=1 pytest tests/test_structure.py and read what it wrote"
    assert text == file.read_text()


@pytest.mark.parametrize("spec", [v for v in variants() if v.endswith(":laptop")])
def test_laptop_variants_build(spec):
    config = configs.load(spec)
    mesh = sharding.make_mesh(devices=jax.devices(), **config.mesh)
    job = jobs.prepare(config, mesh, jobs.Facts(max(config.batch_size, 1000), classes(config), config.data.canvas, False))
    assert sum(x.size for x in jax.tree.leaves(job.state.params)) < 2e6


def test_unknown_method_lists_what_there_is():
    with pytest.raises(UserError, match="simclr"):
        configs.load("configs/digits/simclr.py", {"method.name": "nothing"})
