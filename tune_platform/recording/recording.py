"""Writes what somebody else's search did as a log of ours, so that whatever reads an experiment reads this one.

Facts and effects are those that a driver of ours would have written; nothing is decided here. They go through the
engine's own state, which makes the rows of the trials.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tune_platform.engine.controller import Controller
from tune_platform.engine.log import Turn, trial_row
from tune_platform.engine.settings import Settings
from tune_platform.errors import NameTakenError
from tune_platform.protocol.configs import reference
from tune_platform.protocol.effects import Decided, Effect, Finished, Launched, Moved, SupplyEnded
from tune_platform.protocol.events import CapacityChanged, Event, Exhausted, Failed, Reported, Started, Suggested
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Stop
from tune_platform.registry import make_scheduler
from tune_platform.resources import Resources
from tune_platform.store.sql import SqlExperiment, open_store

#: What a trial of somebody else's holds of the nodes that we lease: nothing.
_NOTHING = Resources(cpu=0.0)
_SCALARS = (bool, int, float, str, type(None))


class Recording:
    """An experiment in the making. Times are seconds since the epoch, trials are numbered from 0 in order of `add`.

    Nothing is written before `write`, which writes all that came since in one transaction.
    """

    def __init__(self, experiment: SqlExperiment, metrics: Sequence[str], modes: Sequence[str], began: float) -> None:
        self.name, self._experiment, self._began = experiment.name, experiment, began
        settings = Settings(metrics=tuple(metrics), modes=tuple(modes), on_bad_metric="ignore")
        self._controller = Controller(settings, make_scheduler("fifo"))
        self._turn = Turn(0)
        self._note(CapacityChanged(time=began, nodes=({},), fixed=True))

    @property
    def trials(self) -> int:
        """How many there are."""
        return self._controller.state.supply.newest + 1

    def status(self, trial: int) -> str:
        """How a trial stands."""
        return self._controller.state.trials[trial].status.value

    def step(self, trial: int) -> int:
        """How many reports a trial has."""
        return self._controller.state.trials[trial].step

    def add(self, config: Mapping[str, Any], time: float, *, key: str = "", started: bool = False) -> int:
        """Add a trial and return its number. `key` is what it is called there. It waits unless it has `started`."""
        number = self.trials
        memo = {"imported": key} if key else None
        suggested = Suggested(time=time, trial=number, config=storable(config), memo=memo, resources=_NOTHING)
        if started:
            self._note(suggested, _launch(number, 1))
            self._note(Started(time=time, trial=number, attempt=1, worker=""))
        else:
            self._note(suggested)
        return number

    def start(self, trial: int, time: float, worker: str = "") -> None:
        """Start a trial that waits, for the first time or again."""
        one = self._controller.state.trials[trial]
        # An effect needs a fact: that the place of a trial came free is one of the nodes.
        self._note(CapacityChanged(time=time, nodes=({},), fixed=True), _launch(trial, one.attempt + 1))
        self._note(Started(time=time, trial=trial, attempt=one.attempt, worker=worker))

    def report(self, trial: int, metrics: Mapping[str, Any], time: float) -> None:
        """Add the next report of a trial that runs; values that JSON has no word for are left out."""
        self.reports(trial, [(metrics, time)])

    def reports(self, trial: int, made: Sequence[tuple[Mapping[str, Any], float]]) -> None:
        """Add the next reports of a trial that runs, each with its time: one fact costs less than many."""
        one = self._controller.state.trials[trial]
        reports = tuple(
            Report(step, storable_metrics(metrics), time) for step, (metrics, time) in enumerate(made, one.step + 1)
        )
        self._note(Reported(time=made[-1][1], trial=trial, attempt=one.attempt, reports=reports))

    def complete(self, trial: int, time: float) -> None:
        """Have a trial come to its own end."""
        moved = Moved(trial=trial, status="COMPLETED", reason="the training code ended")
        attempt = self._controller.state.trials[trial].attempt
        self._note(Reported(time=time, trial=trial, attempt=attempt, reports=(), done=True), moved)

    def stop(self, trial: int, time: float, reason: str, *, completed: bool = False) -> None:
        """Have a trial be ended from outside; `completed`: as was planned."""
        one = self._controller.state.trials[trial]
        verdict = Decided(trial=trial, step=one.step, verdict=Stop(reason=reason, completed=completed))
        self._note(Reported(time=time, trial=trial, attempt=one.attempt, reports=()), verdict)

    def fail(self, trial: int, time: float, message: str, *, traceback: str = "", again: bool = False) -> None:
        """Have a trial fail; `again`: it waits for another attempt."""
        attempt = self._controller.state.trials[trial].attempt
        reason = f"retry after exception: {message}" if again else f"exception: {message}"
        moved = Moved(trial=trial, status="PENDING" if again else "FAILED", reason=reason)
        failed = Failed(
            time=time, trial=trial, attempt=attempt, cause="exception", message=message, traceback=traceback
        )
        self._note(failed, moved)

    def pause(self, trial: int, time: float) -> None:
        """Have a trial wait to be started again."""
        attempt = self._controller.state.trials[trial].attempt
        moved = Moved(trial=trial, status="PENDING", reason="paused")
        self._note(Reported(time=time, trial=trial, attempt=attempt, reports=()), moved)

    def write(self) -> None:
        """Write what came since the last time. Raises ExperimentError where the store does not take it."""
        turn, trials = self._turn, self._controller.state.trials
        if not turn.rows:
            return
        self._turn = Turn(turn.seq)
        touched = [number for number in turn.touched if number in trials]
        self._experiment.append(turn.rows, turn.reports, [trial_row(trials[number]) for number in touched])

    def finish(self, status: str, reason: str, time: float) -> None:
        """Write the rest, and how it ended: finished | failed | stopped. Trials that run are stopped."""
        for number, one in list(self._controller.state.trials.items()):
            if not one.status.final:
                self.stop(number, time, reason)
        self._note(
            Exhausted(time=time, reason="it has ended"), SupplyEnded(), Finished(status=status, reason=reason)
        )  # fmt: skip
        self.write()
        self._experiment.set_status(status, reason, time)

    def _note(self, event: Event, *effects: Effect) -> None:
        elapsed = max(0.0, event.time - self._began)
        self._controller.replay(event, elapsed, effects)
        self._turn.add(event, effects, elapsed)


@contextlib.contextmanager
def open_recording(
    name: str, *, storage: str, metrics: Sequence[str], modes: Sequence[str], began: float, source: str
) -> Iterator[Recording]:
    """Make an experiment for a Recording, and hold its lease as long as the context lasts.

    One whose name is taken is called NAME-2, NAME-3 ...; `source` is told in its spec. Raises ExperimentError.
    """
    spec = {
        "version": 1,
        "name": name,
        "entrypoint": {"python": source},
        "objective": [{"metric": metric, "mode": mode} for metric, mode in zip(metrics, modes, strict=True)],
        "space": {},
        "on_bad_metric": "ignore",
        "imported": source,
    }
    with open_store(storage) as store:
        for number in itertools.count(1):
            with contextlib.suppress(NameTakenError):
                experiment = store.create(name if number == 1 else f"{name}-{number}", spec, created=began)
                break
        with experiment:
            experiment.acquire()
            recording = Recording(experiment, metrics, modes, began)
            recording.write()
            yield recording


def _launch(trial: int, attempt: int) -> Launched:
    return Launched(trial=trial, attempt=attempt, nodes=(0,), until=None, save=False, resources=_NOTHING)


def storable_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a flat mapping of what JSON has words for: nested names are joined by "/", other values left out."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        if type(value) in _SCALARS:  # most are, and the rest of this takes far longer
            found[prefix + name if prefix else name] = value
            continue
        item = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
        if isinstance(item, Mapping):
            found.update(storable_metrics(item, f"{prefix}{name}/"))
        elif isinstance(item, _SCALARS):
            found[f"{prefix}{name}"] = item
    return found


def storable(config: Any) -> Any:
    """Return a config as it can be kept: what has no name that leads to it becomes text."""
    if isinstance(config, Mapping):
        return {str(key): storable(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)([storable(value) for value in config]) if type(config) in (list, tuple) else list(config)
    if hasattr(config, "item") and getattr(config, "shape", None) == ():
        return storable(config.item())
    if isinstance(config, _SCALARS) or reference(config):
        return config
    return str(config)


def seconds(value: Any, fallback: float) -> float:
    """Return a time that was read from somewhere; `fallback` where it is none."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else fallback
