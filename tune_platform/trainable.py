"""The narrow waist: the one interface between training code and everything that tunes it.

Two ways to write a trainable, after Liaw et al. (2018), section 3, which the engine sees as one:

- a class, driven from outside: subclass `Trainable`;
- a function that keeps its own loop and calls `report(...)`, or yields what it would report.

        def train(config):
            model, first = build(config), 1
            if saved := get_checkpoint():
                first = load(model, saved.load())
            for epoch in range(first, 31):
                report({"loss": fit(model), "epoch": epoch}, checkpoint=model.state_dict())

Nothing here knows of a backend, a searcher or Ray: the same code runs in a worker process of a cluster,
in the caller's process under a debugger, or by hand. This module imports nothing of ours but `state`, because
every worker process imports it.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tune_platform.state import StateDirectory, load_state, save_state

if TYPE_CHECKING:
    from tune_platform.distributed.gang import Gang

#: The metric under which a bare number is reported, when a function returns one.
ANONYMOUS_METRIC = "_metric"
#: A class trainable ends itself by reporting this key as true.
DONE = "done"
#: And asks for a checkpoint after this report by this one, as in Ray Tune.
SHOULD_CHECKPOINT = "should_checkpoint"
#: Dicts and lists within each other that a metric may be made of.
_DEEPEST = 20
#: Seconds that a train function has for its `finally` blocks.
_UNWIND_S = 10.0


@dataclass(frozen=True, slots=True)
class TrialContext:
    """Where and as what the training code runs; see `get_context`.

    `seed` is drawn from the spec's seed and the trial's number, 0 ... 2**64 - 1: seed every generator of the training
    with it. Python's `random`, torch and numpy's `default_rng` take it as it is; numpy's legacy generators and
    scikit-learn's `random_state` take no more than 32 bits: `seed % 2**32`.
    `resources` are those of the lease (`cpu`, `gpu`, custom ones), of each worker where there are several; `gang`
    are then the workers (see `tune_platform.distributed`).
    `horizon` are the values at which the trial ends at the latest, by the names under which they are reported ("step"
    counts reports): the scheduler's `max` and what the spec's `stop` says. A learning-rate schedule can end there.
    """

    experiment: str = ""
    trial: int = 0
    attempt: int = 0
    seed: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    folder: str = ""
    gang: Gang | None = None
    horizon: Mapping[str, float] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The trial's own folder, for files that are not checkpoints; made when it is first asked for."""
        directory = Path(self.folder or tempfile.mkdtemp(prefix=f"trial-{self.trial}-"))
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    @property
    def device(self) -> str:
        """The torch device of the lease: `cuda` when the trial holds (part of) a GPU, else `cpu`."""
        return "cuda" if self.resources.get("gpu", 0) > 0 else "cpu"


class Trainable:
    """A training job that is driven step by step. Override `setup` and `step`; the rest as needed.

    The calls come in this order, all from one thread: `setup`, then `load_checkpoint` where the trial is
    resumed, then any number of `step` with `save_checkpoint` in between, and `cleanup`. Where `reset_config`
    returned True the object serves another trial, as if it had just been set up.

    `uses_gang`: whether trials with several workers call `context.gang.group()`, so that those are started ahead; False
    where they place processes of their own there. `one_process`: why they cannot have several; empty: they may.
    """

    uses_gang: ClassVar[bool] = False
    one_process: ClassVar[str] = ""
    config: Mapping[str, Any]
    context: TrialContext

    def __init__(self, context: TrialContext | None = None) -> None:
        self.config = {}
        self.context = context or TrialContext()

    def setup(self, config: dict[str, Any]) -> None:
        """Build model, data and optimiser. Called once, before anything else."""

    def step(self) -> Mapping[str, Any] | None:
        """Train for one reporting period and return its metrics; None, or "done": True, ends the trial."""
        raise NotImplementedError(f"{type(self).__name__}.step() is missing: train a little, return metrics")

    def save_checkpoint(self, directory: Path) -> bool | None:
        """Write all that resuming needs into `directory`; return False where there is nothing to save.

        The files are hashed and stored while the training goes on: leave them alone once this has returned.
        """
        if type(self).get_state is Trainable.get_state:
            return False
        save_state(directory, self.get_state())
        return True

    def load_checkpoint(self, directory: Path) -> None:
        """Read what `save_checkpoint` wrote; the next `step` goes on from there. `directory` is read-only."""
        if type(self).set_state is not Trainable.set_state:
            return self.set_state(load_state(directory))
        raise NotImplementedError(
            f"{type(self).__name__}.load_checkpoint(directory) is missing: the trial has a checkpoint to "
            "resume from. Write it as the inverse of save_checkpoint"
        )

    def get_state(self) -> Any:
        """Return all that resuming needs as an object, such as a dict of tensors; copied before the next `step`."""
        raise NotImplementedError(f"{type(self).__name__}.get_state() is missing: return what set_state(state) takes")

    def set_state(self, state: Any) -> None:
        """Take over what `get_state` returned, tensors on the CPU; the object may be kept and changed."""
        raise NotImplementedError(f"{type(self).__name__}.set_state(state) is missing: the inverse of get_state()")

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Become ready for another trial with `config`, keeping what is expensive; False: cannot."""
        return False

    def cleanup(self) -> None:
        """Give back what the trial holds. Called once, after the last step, also when a step has failed."""


class TrialStopped(BaseException):
    """Raised inside `report` to unwind a function whose trial has ended: let it pass, use `finally`."""


class WorkerDied(RuntimeError):  # noqa: N818 (what happened, not a mistake of the code that raises it)
    """Raised by training code that has lost processes of its own: the trial is retried as if its own had died."""


TrainFunction = Callable[[dict[str, Any]], Any]


class FunctionTrainable(Trainable):
    """A train function seen as a class: each `step` lets the function run until its next `report`.

    The function has a thread of its own, but never runs at the same time as its caller: one of
    the two always waits for the other, so the function may be debugged like any other code.

    `copy`: called by `report`, in the function's thread, with the directory that it brings, which the function may
    change or delete afterwards. Without one `report` makes a temporary copy, for `save_checkpoint`.
    """

    copy: Callable[[Path], None] | None = None

    def __init__(self, function: TrainFunction, context: TrialContext | None = None) -> None:
        super().__init__(context)
        self._function = function
        self._turn = threading.Semaphore(0)  # released: the function may run
        self._answer = threading.Semaphore(0)  # released: the caller may run
        self._thread: threading.Thread | None = None
        self._metrics: Mapping[str, Any] | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._finished = False
        self._restored: StateDirectory | None = None
        self._staged: Path | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Keep the config; the function starts with the first step."""
        self.config = config

    def step(self) -> Mapping[str, Any] | None:
        """Run the function to its next report; None once it has returned without reporting more."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"trial-{self.context.trial}", daemon=True)
            self._thread.start()
        elif self._finished:
            return None
        self._metrics = None
        _process.session = self
        self._turn.release()
        self._answer.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._metrics

    def save_checkpoint(self, directory: Path) -> bool:
        """Hand over the checkpoint of the last report; False where it brought none, or `copy` has it."""
        if self._staged is None:
            return False
        shutil.copytree(self._staged, directory, dirs_exist_ok=True)
        self._discard_staged()
        return True

    def load_checkpoint(self, directory: Path) -> None:
        """Make `directory` what `get_checkpoint` returns."""
        self._restored = StateDirectory(directory)

    def cleanup(self) -> None:
        """Unwind the function, if it still waits in a report, through its `finally` blocks.

        Raises TimeoutError where it has not ended after 10 seconds: its process should not be used again.
        """
        self._discard_staged()
        thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            self._stopped = True
            self._turn.release()
            thread.join(timeout=_UNWIND_S)
        if _process.session is self:
            _process.session = None
        if thread is not None and thread.is_alive():
            raise TimeoutError(
                f"the train function still runs {_UNWIND_S:g} s after its trial ended: let TrialStopped, "
                "which report() raises, pass, and keep `finally` blocks short"
            )

    # Called in the function's thread.

    def _run(self) -> None:
        _local.session = self
        self._turn.acquire()
        try:
            if not self._stopped:
                returned = self._function(dict(self.config))
                if isinstance(returned, Generator):
                    returned = self._drain(returned)
                self._metrics = _final_metrics(returned)
        except TrialStopped:
            pass
        except BaseException as error:  # handed to the engine, SystemExit of user code too
            self._metrics, self._error = None, error
        self._finished = True
        self._answer.release()

    def _drain(self, reports: Generator[Any, None, Any]) -> Any:
        """Report what a generator function yields; return what it returns."""
        with closing(reports):  # its own `finally` blocks run in this thread, however it ends
            while True:
                try:
                    metrics = next(reports)
                except StopIteration as end:
                    return end.value
                self.report({ANONYMOUS_METRIC: metrics} if _is_number(metrics) else metrics, None)

    def report(self, metrics: Mapping[str, Any], checkpoint: Any) -> None:
        """See the module's `report`; called in a thread of the function's."""
        if self._stopped:
            raise TrialStopped
        if not isinstance(metrics, Mapping):
            raise TypeError(f"report() takes a dict of metrics, got {metrics!r} ({type(metrics).__name__})")
        if checkpoint is not None:
            with _as_directory(checkpoint) as source:
                (self.copy or self._stage)(source)
        self._metrics = dict(metrics)
        self._answer.release()
        self._turn.acquire()
        if self._stopped:
            raise TrialStopped

    def _stage(self, source: Path) -> None:
        self._discard_staged()
        self._staged = Path(tempfile.mkdtemp(prefix="tune-platform-checkpoint-"))
        shutil.copytree(source, self._staged, dirs_exist_ok=True)

    def _discard_staged(self) -> None:
        if self._staged is not None:
            shutil.rmtree(self._staged, ignore_errors=True)
            self._staged = None


@contextmanager
def _as_directory(checkpoint: Any) -> Iterator[Path]:
    """Give the directory that a report names, or a temporary one with the state that it brings."""
    if isinstance(checkpoint, (str, os.PathLike)):
        source = Path(checkpoint)
        if not source.is_dir():
            raise ValueError(f"report(checkpoint=...) takes an existing directory, got {str(source)!r}")
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="tune-platform-state-") as made:
        save_state(Path(made), checkpoint)
        yield Path(made)


class _Process:
    """The session that runs in this process now: for threads that the train function starts itself."""

    session: FunctionTrainable | None = None


_process = _Process()
_local = threading.local()


def _session(caller: str) -> FunctionTrainable:
    session: FunctionTrainable | None = getattr(_local, "session", None) or _process.session
    if session is None:
        raise RuntimeError(
            f"{caller}() works only inside a train function that the platform runs. To try the function by "
            "hand, use `tune_platform.testing.run_function(train, config)`"
        )
    return session


def report(metrics: Mapping[str, Any], checkpoint: Any = None) -> None:
    """Report one result from a train function; `checkpoint` is what to resume from.

    That is the state itself (any object that can be pickled, such as a dict of tensors), which
    `get_checkpoint().load()` gives back, or the path of a directory with files. Returns when the trial may go on.
    Raises TrialStopped (a BaseException) when it may not: let it pass.
    """
    _session("report").report(metrics, checkpoint)


def get_checkpoint() -> StateDirectory | None:
    """Return the directory to resume from, or None at a fresh start. Read it before the first report.

    It is a path; `load()` gives back the state that was reported, tensors on the CPU.
    """
    return _session("get_checkpoint")._restored


def get_context() -> TrialContext:
    """Return where and as what the train function runs: trial number, seed, resources, device, directory."""
    return _session("get_context").context


def make_trainable(trainable: type[Trainable] | TrainFunction, context: TrialContext | None = None) -> Trainable:
    """Build the object that the engine drives, from a subclass of Trainable or a train function.

    Raises TypeError for anything else.
    """
    if isinstance(trainable, type) and issubclass(trainable, Trainable):
        made = trainable()
        made.context = context or TrialContext()
        return made
    if isinstance(trainable, type) or not callable(trainable):
        raise TypeError(f"a trainable is a Trainable's class or a function of the config, got {trainable!r}")
    return FunctionTrainable(trainable, context)


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics as plain Python values, nested dicts flattened with `/`.

    Zero-dimensional arrays and tensors become numbers, whole numbers beyond all floats become infinite, and what no
    encoding can hold in a text becomes an escape. Raises TypeError naming what cannot be stored.
    """
    plain: dict[str, Any] = {}
    _flatten("", metrics, plain, 0)
    return plain


def _flatten(prefix: str, metrics: Mapping[Any, Any], plain: dict[str, Any], depth: int) -> None:
    for key, value in metrics.items():
        name = _text(f"{prefix}{key}")
        if isinstance(value, Mapping):
            _check_depth(name, depth)
            _flatten(f"{name}/", value, plain, depth + 1)
        else:
            plain[name] = _plain(name, value, depth)


def _plain(name: str, value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is float or kind is bool or value is None:
        return value
    if kind is int:
        return value if value.bit_length() < sys.float_info.max_exp else _float(value)
    if kind is str:
        return _text(value)
    if kind is list or kind is tuple:
        _check_depth(name, depth)
        return [_plain(f"{name}[{index}]", item, depth + 1) for index, item in enumerate(value)]
    try:
        plain = _converted(value)
    except Exception as error:  # of an object of somebody else's
        raise TypeError(f"metric {name!r} is {kind.__name__}, which cannot be read: {type(error).__name__}") from error
    if plain is not value:
        return _plain(name, plain, depth)
    raise TypeError(
        f"metric {name!r} is {kind.__name__} {_shown(value)!r}; report numbers, strings, booleans, "
        "lists of these, or zero-dimensional arrays and tensors"
    )


def _converted(value: Any) -> Any:
    """Return a plainer form of a value, or the value itself where there is none."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        inner = value.item()
        if type(inner) is not type(value):
            return inner
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, (Real, Decimal)):
        return _float(value)
    return list(value) if isinstance(value, (list, tuple)) else value


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except ValueError:  # a signalling NaN
        return math.nan


def _text(value: str) -> str:
    # Half of a surrogate pair is a text to Python, and to nothing that it could be written to.
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _check_depth(name: str, depth: int) -> None:
    if depth >= _DEEPEST:
        raise TypeError(f"metric {name[:60]!r} is nested more than {_DEEPEST} deep; report numbers, or lists of them")


def _shown(value: Any) -> str:
    try:
        return str(value)[:60]
    except Exception:
        return "(it cannot be printed)"


def _final_metrics(returned: Any) -> Mapping[str, Any] | None:
    """What a train function returned: a dict or a number is its last report."""
    if isinstance(returned, Mapping):
        return {**returned, DONE: True}
    return {ANONYMOUS_METRIC: returned, DONE: True} if _is_number(returned) else None


def _is_number(value: Any) -> bool:
    return value is not True and value is not False and isinstance(value, (Real, Decimal))
