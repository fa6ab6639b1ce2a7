"""`Recorder`: a callback of Ray Tune's that writes an unmodified script's experiment into our store, live.

    RAY_TUNE_CALLBACKS=tune_platform.ray_tune.Recorder python their_script.py

A callback only notes what happened; a thread of its own writes it every two seconds. Whatever goes wrong here is told
once, and their run goes on without it.
"""

from __future__ import annotations

import atexit
import copy
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from ray.tune import Callback

from tune_platform.location import default_storage
from tune_platform.recording import Recording, open_recording
from tune_platform.recording.ray_experiment import metrics_of

_LOG = logging.getLogger("tune_platform")
_PERIOD = 2.0  # seconds between two transactions
_PATIENCE = 30.0  # seconds that the end of their run waits for the last of them
_RUN = "ray.tune.tune"


#: A report: the trial's id, the result, and when it came.
Report = tuple[str, Mapping[str, Any], float]
#: What the thread is to do with the recording.
Note = Callable[[Recording], Any] | Report


class Recorder(Callback):  # type: ignore[misc]
    """Records the experiment under its name. `metric` and `mode` are those of their Tuner unless given here.

    `storage` is where our experiments lie: TUNE_PLATFORM_STORAGE, or `tune_results`, if None.
    """

    def __init__(self, metric: str | None = None, mode: str | None = None, storage: str | None = None) -> None:
        self._metric, self._mode, self._storage = metric, mode, storage
        # Nobody waits for a note: the thread looks for new ones, so a callback wakes nobody.
        self._notes: deque[Note] = deque()
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()  # their run ends: what is left is written at once
        self._how: tuple[str, str] | None = None  # its status and why; None: it was left, nobody knows how
        self._numbers: dict[str, int] = {}
        self._done: dict[int, bool] = {}  # whether the last result of a trial said that it is done, for the thread
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
        """Note a report: this is called by far the most often, and so does the least."""
        if not self._lost:
            self._notes.append((trial.trial_id, dict(result), time.time()))

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
        """Write the rest, and how it ended."""
        self._safely(self._end, trials)

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
        frame = _frame_of_run()
        for source in () if frame is None else (
            frame.f_locals, _of(frame.f_locals.get("scheduler")), _of(frame.f_locals.get("search_alg")),
        ):  # fmt: skip
            self._metric = self._metric or source.get("metric") or source.get("_metric")
            self._mode = self._mode or source.get("mode") or source.get("_mode")

    def _start(self, trial: Any) -> None:
        if self._thread is None:
            name, began = str(trial.storage.experiment_dir_name), time.time()
            self._thread = threading.Thread(target=self._work, args=(name, began), name="recorder", daemon=True)
            self._thread.start()
            atexit.register(self._leave)
        now = time.time()
        number = self._numbers.get(trial.trial_id)
        if number is None:
            self._numbers[trial.trial_id] = len(self._numbers)
            config, key = copy.copy(trial.config), trial.trial_id
            self._notes.append(lambda recording: recording.add(config, now, key=key, started=True))
            return

        def start(recording: Recording) -> None:
            if recording.status(number) == "RUNNING":
                recording.pause(number, now)  # their schedulers pause a trial without a word to callbacks
            recording.start(number, now)

        self._notes.append(start)

    def _complete(self, trial: Any) -> None:
        number, now = self._numbers[trial.trial_id], time.time()
        criteria, last = trial.stopping_criterion or {}, trial.last_result or {}
        met = next((name for name, most in criteria.items() if _reached(last.get(name), most)), None)
        if met is not None:
            reason = f"{met} {last[met]:g} reached the stop condition {criteria[met]:g}"
            self._notes.append(lambda recording: recording.stop(number, now, reason, completed=True))
            return

        def end(recording: Recording) -> None:
            if self._done.get(number):
                recording.stop(number, now, "Ray Tune ended it: its scheduler, or a stop condition")
            else:
                recording.complete(number, now)

        self._notes.append(end)

    def _fail(self, trial: Any, again: bool) -> None:
        number, now = self._numbers[trial.trial_id], time.time()
        traceback = str(trial.get_error() or "") if not again else ""
        lines = traceback.strip().splitlines() or ["the attempt failed"]
        self._notes.append(lambda recording: recording.fail(number, now, lines[-1], traceback=traceback, again=again))

    def _end(self, trials: list[Any]) -> None:
        self._how = _ending(trials)
        self._leave()

    def _leave(self) -> None:
        """Have the thread write what was noted, and end."""
        atexit.unregister(self._leave)
        self._ends.set()
        if self._thread is None:
            return
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
                while not self._ends.wait(_PERIOD):
                    self._take(recording)
                    recording.write()
                self._take(recording)
                if self._how is None:
                    recording.write()
                else:
                    recording.finish(*self._how, time.time())
        except Exception:
            self._give_up()

    def _take(self, recording: Recording) -> None:
        """Carry out what was noted until now."""
        reports: dict[str, list[Report]] = {}  # of each trial, since anything else happened
        for _ in range(len(self._notes)):
            note = self._notes.popleft()
            if isinstance(note, tuple):
                reports.setdefault(note[0], []).append(note)
            else:
                self._write(recording, reports)
                note(recording)
        self._write(recording, reports)

    def _write(self, recording: Recording, reports: dict[str, list[Report]]) -> None:
        """Carry out the reports of each trial together, in the order of the last ones."""
        for key, made in sorted(reports.items(), key=lambda item: item[1][-1][-1]):
            number = self._numbers[key]
            fresh, known = [], recording.step(number)
            for _, result, at in made:
                step = result.get("training_iteration")
                self._done[number] = bool(result.get("done"))
                if not isinstance(step, int) or step > known:  # else it is reported anew
                    fresh.append((metrics_of(result), at))
                    known += 1
            if fresh:
                recording.reports(number, fresh)
        reports.clear()


def _frame_of_run() -> FrameType | None:
    """Return the frame of Ray Tune's own `run`, which calls this; None where something else does."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not (frame.f_globals.get("__name__") == _RUN and frame.f_code.co_name == "run"):
        frame = frame.f_back
    return frame


def _ending(trials: list[Any]) -> tuple[str, str]:
    """Return how Ray Tune's run ends, a status and why: a callback is not told of that either."""
    error = sys.exc_info()[1]
    # Handled by their `run`: they may also have been called where somebody handles an error of his own.
    if error is not None and error.__traceback__ and error.__traceback__.tb_frame.f_globals.get("__name__") == _RUN:
        return "failed", f"Ray Tune's run has failed: {type(error).__name__}: {error}"
    frame = _frame_of_run()
    given: Mapping[str, Any] = {} if frame is None else frame.f_locals
    interrupted = given.get("experiment_interrupted_event")
    if interrupted is not None and interrupted.is_set():
        return "stopped", "Ray Tune's run was interrupted by a signal"
    if given.get("fail_fast") and any(getattr(trial, "status", "") == "ERROR" for trial in trials):
        return "failed", "a trial has failed, at which Ray Tune was to end (fail_fast)"
    return "finished", "Ray Tune's run has ended"


def _of(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})


def _reached(value: Any, most: Any) -> bool:
    return isinstance(value, (int, float)) and isinstance(most, (int, float)) and value >= most
