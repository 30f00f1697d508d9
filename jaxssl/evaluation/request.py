"""What an evaluation is asked for: one frozen object, checked before anything is loaded."""
import dataclasses
import os
import re
from collections.abc import Mapping

from jaxssl.errors import UserError, nearest

SELECT_BY = ("rankme", "alphareq")
CHOOSE = ("rankme", "alpha_req", "lidar", "loss", "mutual_knn")
HOME = os.path.join("~", ".cache", "jaxssl")


@dataclasses.dataclass(frozen=True)
class Request:
    """What `evaluate.run` does.

    workdirs, weights: paths of runs, and of exports or files of weights. use: "student", "teacher" or "" (the teacher where there is one). step: of the
    checkpoint of a workdir, None for the newest. protocols: names. options: protocol -> its keywords that are set. layer: for protocols that look at one.
    select: settings are selected on "validation" or "test". select_by: only the best of several by "rankme" or "alphareq" is evaluated, which reads no label.
    budget: "short" or "published". seeds: of the protocols. gallery, query: places of the images that retrieval searches, and of those it searches for ("": each of
    the gallery among the others). ensemble: retrieval by all encoders together. data, data_keys: another source than a run's own, and keys of the data section as text.
    choose: no protocol is run, but the checkpoints of one run are measured ("all", or steps with commas), and one is chosen by a measure of `CHOOSE`; reference: weights
    that mutual_knn compares with. precision: "f32" or "bf16". cache, out: folders of the features and of evaluations/; "" is the workdir, or `HOME`.
    command: as a person would type it.
    """
    workdirs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    use: str = ""
    step: int | None = None
    protocols: tuple[str, ...] = ("knn", "linear")
    options: Mapping[str, dict] = dataclasses.field(default_factory=dict)
    layer: str = ""
    select: str = "validation"
    select_by: str = ""
    choose: str = ""
    checkpoints: str = ""
    reference: str = ""
    budget: str = "short"
    seeds: tuple[int, ...] = (0,)
    data: str = ""
    gallery: str = ""
    query: str = ""
    ensemble: bool = False
    data_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    precision: str = "f32"
    cache: str = ""
    out: str = ""
    command: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        return (*self.workdirs, *self.weights)

    @property
    def apart(self) -> bool:
        """Whether the queries of retrieval are other images than its gallery's."""
        return bool(self.query) and os.path.realpath(os.path.expanduser(self.query)) != os.path.realpath(os.path.expanduser(self.gallery))

    def of(self, protocol: str) -> dict:
        """The keywords of a protocol: those that are set, and the layer where it looks at one."""
        from jaxssl.evaluation import protocols      # with it comes JAX, which a command's --help does without
        own = {"layer": self.layer} if self.layer and "layer" in protocols.options(protocol) else {}
        own |= {"against": "train"} if self.apart and protocol == "retrieval" else {}
        return own | dict(self.options.get(protocol, {}))


def check(request: Request) -> None:
    """Against what there is. Raises: UserError."""
    from jaxssl.evaluation import protocols
    if not request.paths:
        raise UserError("nothing to evaluate: give --workdir DIR (a run) or --weights FILE (an export)")
    for name, choices in (("select", protocols.SELECT), ("budget", protocols.BUDGETS), ("select_by", ("", *SELECT_BY)), ("precision", ("f32", "bf16"))):
        value = getattr(request, name)
        if value not in choices:
            other = f"; --select_by {value} picks among several runs" if name == "select" and value in SELECT_BY else ""
            raise UserError(f"--{name} is {value!r}; choose one of {', '.join(filter(None, choices))}{other or nearest(value, choices)}")
    absolute = [os.path.abspath(path) for path in request.paths]
    twice = next((path for place, path in enumerate(request.paths) if absolute[place] in absolute[:place]), None)
    if twice:
        raise UserError(f"{twice} is named twice, and a comparison would count it twice; name every run once")
    if request.choose or request.checkpoints or request.reference:
        return _check_choice(request)
    if not request.protocols:
        raise UserError(f"--protocols names none; name some of {', '.join(protocols.names())}, or all")
    if request.query and not request.gallery:
        raise UserError(f"--query {request.query} names the images that are searched for; name those to search among with --gallery")
    if request.gallery and request.data:
        raise UserError(f"--gallery {request.gallery} and --data {request.data} both say which images to evaluate on; leave one of them out")
    if (request.gallery or request.ensemble) and "retrieval" not in request.protocols:
        raise UserError(f"--{'gallery' if request.gallery else 'ensemble'} is of retrieval; add --protocols retrieval")
    if request.ensemble and len(request.paths) < 2:
        raise UserError("--ensemble puts several encoders together; give several --workdir, such as one of each fold")
    if request.step is not None and request.weights:
        raise UserError(f"--step {request.step} says which checkpoint of a --workdir is evaluated, and --weights holds one alone; leave it out, or evaluate them one after the "
                        "other")
    known = {name: protocols.options(name) for name in request.protocols}
    if request.layer and not request.select_by and not any("layer" in own for own in known.values()):
        readers = [name for name in protocols.names() if "layer" in protocols.options(name)]
        raise UserError(f"--layer {request.layer} has no use with {', '.join(request.protocols)}; it is read by {', '.join(readers)}, and by --select_by")
    if not request.seeds or min(request.seeds) < 0 or max(request.seeds) >= 2**32 or len(set(request.seeds)) < len(request.seeds):
        raise UserError(f"--seeds is {','.join(map(str, request.seeds))!r}; write different numbers from 0 to 2**32 - 1")


def _check_choice(request: Request) -> None:
    """Of a choice among checkpoints. Raises: UserError."""
    if request.choose not in CHOOSE:
        raise UserError(f"--choose is {request.choose!r}; choose one of {', '.join(CHOOSE)}, by which a checkpoint is chosen{nearest(request.choose, CHOOSE)}")
    other = {"--weights": request.weights, "--step": request.step is not None, "--select_by": request.select_by, "--select": request.select != "validation",
             "--gallery": request.gallery, "--query": request.query, "--ensemble": request.ensemble, "--protocols": request.protocols, "--set": request.options}
    if given := next((flag for flag, value in other.items() if value), ""):
        raise UserError(f"--choose measures the checkpoints of a --workdir and runs no protocol, so {given} has no use; leave it out, and evaluate what is chosen with --step")
    if len(request.workdirs) != 1 or len(request.seeds) != 1:
        raise UserError("--choose compares the checkpoints of one run, with one seed for what it draws; give one --workdir and one of --seeds at a time")
    steps = request.checkpoints.split(",")
    if request.checkpoints != "all" and not all(re.fullmatch("[0-9]{1,10}", part) for part in steps) or len(set(steps)) < len(steps):
        raise UserError(f"--checkpoints is {request.checkpoints!r}; write all, or the steps of different checkpoints with commas: 1000,2000")
    if request.choose == "mutual_knn" and not request.reference:
        raise UserError("--choose mutual_knn compares with a frozen encoder; name its weights with --reference")
