"""`Recorder`: a callback of Ray Tune's that writes an unmodified script's experiment into our store, live.

    RAY_TUNE_CALLBACKS=tune_platform.ray_tune.Recorder python their_script.py

A callback only notes what happened; a thread of its own writes it twice a second. Whatever goes wrong here is told
once, and their run goes on without it.
"""

from __future__ import annotations

import copy
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ray.tune import Callback

from tune_platform.location import default_storage
from tune_platform.recording import Recording, open_recording
from tune_platform.recording.ray_experiment import metrics_of

_LOG = logging.getLogger("tune_platform")
_PERIOD = 0.5  # seconds between two transactions
_PATIENCE = 30.0  # seconds that the end of their run waits for the last of them


class _Report(NamedTuple):
    """A report of a trial, when it came."""

    number: int
    metrics: Mapping[str, Any]
    time: float


#: What the thread is to do with the recording.
Note = Callable[[Recording], None] | _Report


class Recorder(Callback):  # type: ignore[misc]
    """Records the experiment under its name. `metric` and `mode` are those of their Tuner unless given here.

    `storage` is where our experiments lie: TUNE_PLATFORM_STORAGE, or `tune_results`, if None.
    """

    def __init__(self, metric: str | None = None, mode: str | None = None, storage: str | None = None) -> None:
        self._metric, self._mode, self._storage = metric, mode, storage
        self._notes: queue.SimpleQueue[Note | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()  # their run ends: what is left is written at once
        self._numbers: dict[str, int] = {}
        self._last: dict[str, bool] = {}  # whether the last result of a trial said that it is done
        self._lost = False

    def __reduce__(self) -> Any:  # Ray Tune keeps its callbacks with its experiment: threads and queues stay here
        return Recorder, (self._metric, self._mode, self._storage)

    def setup(
        self, stop: Any = None, num_samples: int | None = None, total_num_samples: int | None = None, **info: Any
    ) -> None:
        """Find out what is optimised."""
        self._safely(self._learn_objective)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a new trial, or that one goes on."""
        self._safely(self._start, trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note a report."""
        self._safely(self._report, trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has ended, by itself or by a decision."""
        self._safely(self._complete, trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a failure."""
        self._safely(self._fail, trial, False)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a failure after which the trial is tried again."""
        self._safely(self._fail, trial, True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Write the rest."""
        self._safely(self._end)

    # ------------------------------------------------------------------------------- what is noted

    def _safely(self, note: Callable[..., None], *arguments: Any) -> None:
        if self._lost:
            return
        try:
            note(*arguments)
        except Exception:
            self._give_up()

    def _give_up(self) -> None:
        self._lost = True
        _LOG.warning("the Recorder failed and records no more; the run itself goes on", exc_info=True)

    def _learn_objective(self) -> None:
        """Look for the metric in Ray Tune's own `run`, which calls this: a callback is not told of it."""
        frame = sys._getframe()
        while frame is not None and (self._metric is None or self._mode is None):
            if frame.f_globals.get("__name__") == "ray.tune.tune" and frame.f_code.co_name == "run":
                for source in (
                    frame.f_locals,
                    _of(frame.f_locals.get("scheduler")),
                    _of(frame.f_locals.get("search_alg")),
                ):
                    self._metric = self._metric or source.get("metric") or source.get("_metric")
                    self._mode = self._mode or source.get("mode") or source.get("_mode")
            frame = frame.f_back  # type: ignore[assignment]

    def _start(self, trial: Any) -> None:
        if self._thread is None:
            name, began = str(trial.storage.experiment_dir_name), time.time()
            self._thread = threading.Thread(target=self._work, args=(name, began), name="recorder", daemon=True)
            self._thread.start()
        now = time.time()
        number = self._numbers.get(trial.trial_id)
        if number is None:
            number = self._numbers[trial.trial_id] = len(self._numbers)
            config, key = copy.copy(trial.config), trial.trial_id

            def add(recording: Recording) -> None:
                recording.add(config, now, key=key)

            self._notes.put(add)

        def start(recording: Recording) -> None:
            if recording.status(number) == "RUNNING":
                recording.pause(number, now)  # their schedulers pause a trial without a word to callbacks
            recording.start(number, now)

        self._notes.put(start)

    def _report(self, trial: Any, result: Mapping[str, Any]) -> None:
        number, metrics, now = self._numbers[trial.trial_id], metrics_of(result), time.time()
        self._last[trial.trial_id] = bool(result.get("done"))
        self._notes.put(_Report(number, metrics, now))

    def _complete(self, trial: Any) -> None:
        number, now = self._numbers[trial.trial_id], time.time()
        criteria, last = trial.stopping_criterion or {}, trial.last_result or {}
        met = next((name for name, most in criteria.items() if _reached(last.get(name), most)), None)
        if met is not None:
            reason = f"{met} {last[met]:g} reached the stop condition {criteria[met]:g}"
            self._notes.put(lambda recording: recording.stop(number, now, reason, completed=True))
        elif self._last.get(trial.trial_id):
            reason = "Ray Tune ended it: its scheduler, or a stop condition"
            self._notes.put(lambda recording: recording.stop(number, now, reason))
        else:
            self._notes.put(lambda recording: recording.complete(number, now))

    def _fail(self, trial: Any, again: bool) -> None:
        number, now = self._numbers[trial.trial_id], time.time()
        traceback = str(trial.get_error() or "") if not again else ""
        lines = traceback.strip().splitlines() or ["the attempt failed"]
        self._notes.put(lambda recording: recording.fail(number, now, lines[-1], traceback=traceback, again=again))

    def _end(self) -> None:
        if self._thread is None:
            return
        self._notes.put(None)
        self._ends.set()
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            _LOG.warning("the Recorder has not written all within %g s; their run ends without it", _PATIENCE)

    # ------------------------------------------------------------------------------- the thread

    def _work(self, name: str, began: float) -> None:
        try:
            with open_recording(
                name, storage=self._storage or default_storage(), metrics=[self._metric or "training_iteration"],
                modes=[self._mode or "max"], began=began, source="a run of Ray Tune",
            ) as recording:  # fmt: skip
                while self._take(recording):
                    recording.write()
                recording.finish("finished", "Ray Tune's run has ended", time.time())
        except Exception:
            self._give_up()

    def _take(self, recording: Recording) -> bool:
        """Carry out what was noted; False once there is no more to come."""
        note = self._notes.get()
        if note is not None and self._notes.empty():
            self._ends.wait(_PERIOD)
        reports: dict[int, list[_Report]] = {}  # of each trial, since anything else happened
        try:
            while note is not None:
                if isinstance(note, _Report):
                    reports.setdefault(note.number, []).append(note)
                else:
                    _write(recording, reports)
                    note(recording)
                note = self._notes.get_nowait()
        except queue.Empty:
            return True
        finally:
            _write(recording, reports)
        return False


def _write(recording: Recording, reports: dict[int, list[_Report]]) -> None:
    """Carry out the reports of each trial together, in the order of the last ones."""
    for number, made in sorted(reports.items(), key=lambda item: item[1][-1].time):
        fresh, known = [], recording.step(number)
        for each in made:
            step = each.metrics.get("training_iteration")
            if not isinstance(step, int) or step > known:  # else it is reported anew
                fresh.append((each.metrics, each.time))
                known += 1
        if fresh:
            recording.reports(number, fresh)
    reports.clear()


def _of(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})


def _reached(value: Any, most: Any) -> bool:
    return isinstance(value, (int, float)) and isinstance(most, (int, float)) and value >= most
