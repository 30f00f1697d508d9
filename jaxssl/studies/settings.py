"""Where the settings of a study come from: a grid has all of them from the start; a search asks Optuna for the next, and tells it what came."""
import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxssl.errors import Temporary, UserError, nearest
from jaxssl.studies import space

SAMPLERS = ("tpe", "gp", "random")
EXTRA = 'a search needs Optuna, which is not installed: pip install -e ".[protocol]", or list values with --grid'
TRIES = 8
WAIT = 10       # seconds that a database has to answer


class Setting(NamedTuple):
    """number: its place in the study, from 0. values: {key: text of the flag}."""
    number: int
    values: Mapping[str, str]


class Grid:
    """All settings of a grid, in order."""

    def __init__(self, axes: Sequence[space.Axis]):
        self._all = [Setting(number, values) for number, values in enumerate(space.grid(axes))]

    def known(self) -> list[Setting]:
        return self._all

    def ask(self) -> Setting | None:
        """The next that nobody has asked for; a grid has none."""

    def tell(self, setting: Setting, value: float) -> None:
        """What the setting reached."""


class Search:
    """At most `most` settings that an Optuna study of this `name` in `storage` (a URL) holds or is asked for. Several processes may do so at once."""

    def __init__(self, axes: Sequence[space.Axis], *, storage: str, name: str, most: int, sampler: str, seed: int):
        self._axes, self._most, self._sampler, self._seed, self._url = axes, most, sampler, seed, storage
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        check_sampler(sampler)
        with self._answering():
            self._study = _begun(lambda: optuna.create_study(study_name=name, storage=_storage(optuna, storage), direction="maximize", load_if_exists=True, sampler=self._made(0)))

    def known(self) -> list[Setting]:
        """Those that were asked for, by whichever process; one that is being asked for this moment, or that died while it was, is not among them."""
        return [Setting(number, self._texts(trial.params)) for number, trial in enumerate(self._trials())]

    def ask(self) -> Setting | None:
        """The next one; None when there are as many as there should be. What is asked for is a function of seed and number and of what was told before."""
        before = self._trials()
        if len(before) >= self._most:
            return None
        optuna = _optuna()
        with self._answering():
            self._study.sampler = self._made(len(before))
            trial = self._study.ask()
            self._study.sampler = self._made(trial.number)       # tpe and random draw from here on
            for axis in self._axes:
                if axis.kind == "values":
                    trial.suggest_categorical(axis.key, list(axis.values))
                elif axis.kind == "int":
                    trial.suggest_int(axis.key, int(axis.low), int(axis.high))
                else:
                    trial.suggest_float(axis.key, axis.low, axis.high, log=axis.kind == "log")
            place = [own.number for own in self._trials()].index(trial.number)
            if place >= self._most:                              # another process asked at the same time
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                return None
        return Setting(place, self._texts(trial.params))

    def tell(self, setting: Setting, value: float) -> None:
        """Told once; what came first stays."""
        trial = self._trials()[setting.number]
        if not trial.state.is_finished():
            with self._answering(), contextlib.suppress(ValueError, RuntimeError):       # another process told it meanwhile
                self._study.tell(trial.number, value)

    def told(self, setting: Setting) -> bool:
        return self._trials()[setting.number].state.is_finished()

    def _trials(self):
        optuna = _optuna()
        with self._answering():
            found = self._study.get_trials(deepcopy=False)
        return [trial for trial in found if trial.state != optuna.trial.TrialState.FAIL and len(trial.params) == len(self._axes)]

    def _texts(self, params):
        return {axis.key: params[axis.key] if axis.kind == "values" else axis.text(params[axis.key]) for axis in self._axes}

    def _made(self, number):
        return sampler_of(self._sampler, self._seed + number)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Raises: Temporary when the database does not answer, UserError when it is none."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if (refusal := refused(error, self._url)) is None:
                raise
            raise refusal from error


def refused(error: BaseException, url: str) -> UserError | None:
    """The sentence for what a database, its driver or its address raised; None for anything else."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    names = {type(each).__name__ for each in chain}
    why = " ".join(str(chain[-1]).split())[:200] or type(error).__name__
    why = why.replace(url, shown(url))
    if missing := next((each for each in chain if isinstance(each, ModuleNotFoundError)), None):
        return UserError(f"the storage {shown(url)} needs the package {missing.name}: pip install {'psycopg2-binary' if missing.name == 'psycopg2' else missing.name}")
    if names & {"ArgumentError", "NoSuchModuleError"}:
        return UserError(f"--storage {shown(url)} is no address of a database ({why}); write sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    if names & {"OperationalError", "InterfaceError", "StorageInternalError", "DatabaseError", "TimeoutError"}:
        return Temporary(f"the database {shown(url)} does not answer or refuses ({why}); nothing is lost: the same command goes on once it does")
    return None


def shown(url: str) -> str:
    """An address without the password in it."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:…@", url)


def check_sampler(name: str) -> None:
    if name not in SAMPLERS:
        raise UserError(f"--sampler is {name!r}; choose one of {', '.join(SAMPLERS)}{nearest(name, SAMPLERS)}")


def sampler_of(name: str, seed: int) -> Any:
    """The sampler of Optuna that draws one setting. Raises: UserError."""
    optuna, seed = _optuna(), seed % 2**31
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=10)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    try:
        return optuna.samplers.GPSampler(seed=seed)
    except ImportError as error:
        raise UserError("--sampler gp needs torch (and scipy), which Optuna's Gaussian process computes with: pip install torch, or use --sampler tpe") from error


def _begun(make: Callable[[], Any]) -> Any:
    """What `make()` gives; tried again where another worker makes the tables of the database, or the study in them, at the same moment."""
    for left in reversed(range(TRIES)):
        try:
            return make()
        except Exception as error:
            if not left or not re.search("already exists|duplicate key|UNIQUE constraint|database is locked", str(error)):
                raise
            time.sleep(1 + random.random())


def _storage(optuna, url):
    arguments = {"connect_args": {"connect_timeout": WAIT}} if url.startswith("postgres") else {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url=url, engine_kwargs=arguments)


def _optuna():
    """The package. Raises: UserError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(EXTRA) from error
    return optuna

