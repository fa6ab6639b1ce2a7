"""Ray Tune's callbacks, loggers and progress reporters, called from ours, with a stand-in for its Trial."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tune_platform.callbacks import Callback
from tune_platform.protocol.trial_log import folder_of
from tune_platform.ray_tune.nesting import Metrics, flat
from tune_platform.ray_tune.session import trial_id

_ERROR_FILE = "error.txt"


class Trial:
    """What a callback of Ray Tune's may read of a trial."""

    def __init__(self, number: int, config: dict[str, Any], folder: Path, trainable: str, experiment: Path) -> None:
        self.number, self.config, self.evaluated_params, self.path = number, config, flat(config), str(folder)
        self.trial_id, self.trainable_name, self.status = trial_id(number), trainable, "PENDING"
        self.last_result: dict[str, Any] = Metrics()
        self.custom_trial_name: str | None = None
        self.checkpoint: Any = None
        self.attempt = 0
        self.reported = time.time()  # when it reported last, or came to be
        self.began: float | None = None
        self.error, self.error_file = "", None
        self.run_metadata = SimpleNamespace(num_failures=0, last_result=self.last_result)
        self.temporary_state = SimpleNamespace(location="")
        self.experiment_dir_name, self.local_experiment_path = experiment.name, str(experiment)

    local_path = property(lambda self: self.path)
    logdir = local_path
    experiment_tag = property(lambda self: str(self.number))

    def init_local_path(self) -> None:
        """Make its folder."""
        Path(self.path).mkdir(parents=True, exist_ok=True)

    def get_error(self) -> str | None:
        """The traceback of its last failure; None where it has none."""
        return self.error or None

    def get_ray_actor_ip(self) -> str | None:
        """None: a callback is not told where a trial runs."""
        return None

    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.status in ("TERMINATED", "ERROR")

    def __str__(self) -> str:
        return self.custom_trial_name or f"{self.trainable_name}_{self.trial_id}"

    __repr__ = __str__


class RayCallbacks(Callback):
    """Calls Ray Tune's callbacks, all that they have: a step of its loop is a report here.

    `storage` holds the experiment's folder. `names` and `folders` are Ray Tune's `trial_name_creator` and
    `trial_dirname_creator`: what the latter returns is a link in the experiment's folder to the trial's own.
    `reporter` is one of its progress reporters, and `objective` the metric and the mode that it is told.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        *,
        storage: str,
        trainable: str,
        samples: int,
        stop: Any = None,
        names: Callable[[Any], str] | None = None,
        folders: Callable[[Any], str] | None = None,
        reporter: Any = None,
        objective: tuple[Any, Any] = (None, None),
    ) -> None:
        self._callbacks, self._storage, self._trainable, self._samples = list(callbacks), storage, trainable, samples
        self._stop, self._names, self._folders, self._reporter = stop, names, folders, reporter
        self._objective = objective
        self._trials: dict[int, Trial] = {}
        self._all: list[Trial] = []  # as Ray Tune passes them: every trial, its last result in it
        self._reports = 0

    def on_start(self, run: Any) -> None:
        """Call `setup`."""
        total = int(run.expected_trials) if math.isfinite(run.expected_trials) else -1
        if self._reporter is not None:
            metric, mode = self._objective
            self._reporter.setup(start_time=time.time(), total_samples=total, metric=metric, mode=mode)
        for each in self._callbacks:
            each.setup(stop=self._stop, num_samples=self._samples, total_num_samples=total)

    def on_suggest(self, run: Any, trial: Any) -> None:
        """Name the trial."""
        self._of(run, trial)

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Call `on_trial_start` before the first report of an attempt, then `on_trial_result`; a step around them."""
        one = self._of(run, trial)
        self._step("on_step_begin")
        self._begin(one, trial)
        one.config = dict(trial.config_at(report.step))  # PBT changes it
        began = one.began = one.reported if one.began is None else one.began
        self._reports += 1
        one.last_result = one.run_metadata.last_result = Metrics({
            "training_iteration": report.step, "time_this_iter_s": max(0.0, report.time - one.reported),
            "time_total_s": max(0.0, report.time - began), "timestamp": int(report.time),
            "date": time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(report.time)), **report.metrics,
            "trial_id": one.trial_id, "config": one.config, "done": False,
        })  # fmt: skip
        one.reported = report.time
        self._tell("on_trial_result", trial=one, result=one.last_result)
        self._step("on_step_end")
        self._show(done=False)

    def on_checkpoint(self, run: Any, checkpoint: Any) -> None:
        """Call `on_trial_save` and `on_checkpoint`."""
        from ray.tune import Checkpoint

        one, look = self._trials.get(checkpoint.trial), run.trial(checkpoint.trial)
        if one is None and look is None:
            return  # it ended before this driver began
        one = one or self._of(run, look)
        self._begin(one, look)
        one.checkpoint = Checkpoint(f"{checkpoint.uri}/files")
        self._tell("on_trial_save", trial=one)
        self._tell("on_checkpoint", trial=one, checkpoint=one.checkpoint)

    def on_trial_end(self, run: Any, trial: Any) -> None:
        """Call `on_trial_complete`, or `on_trial_error`."""
        one = self._of(run, trial)
        self._begin(one, trial)
        one.last_result["done"] = True
        if trial.status == "FAILED":
            one.status = "ERROR"
            self._note_error(one, trial.error or trial.reason)
            self._tell("on_trial_error", trial=one)
        else:
            one.status = "TERMINATED"
            self._tell("on_trial_complete", trial=one)
        self._show(done=False)

    def on_finish(self, run: Any, finish: Any) -> None:
        """Call `on_experiment_end`."""
        self._show(done=True)
        for each in self._callbacks:
            each.on_experiment_end(trials=self._all)

    def _of(self, run: Any, trial: Any) -> Trial:
        found = self._trials.get(trial.number)
        if found is None:
            home = Path(self._storage).expanduser().absolute() / run.name
            folder = Path(folder_of(str(home / "trials"), trial.number))
            found = Trial(trial.number, dict(trial.config), folder, self._trainable, home)
            self._trials[trial.number] = found
            self._all.append(found)
            if self._names is not None:
                found.custom_trial_name = str(self._names(found))
            if self._folders is not None:
                with contextlib.suppress(FileExistsError):
                    (home / Path(self._folders(found)).name).symlink_to(folder, target_is_directory=True)
        return found

    def _begin(self, one: Trial, look: Any) -> None:
        """Tell that an attempt has begun, where it is told of for the first time."""
        attempt = one.attempt if look is None else look.attempt
        if one.status != "PENDING" and attempt == one.attempt:
            return
        again, one.attempt = one.status != "PENDING", attempt
        if again and look.error and look.error != one.error:
            self._note_error(one, look.error)
            self._tell("on_trial_recover", trial=one)
        one.status = "RUNNING"
        kept, one.checkpoint = one.checkpoint, None  # else a logger would fetch its file from where it is already
        self._tell("on_trial_start", trial=one)
        one.checkpoint = kept
        if again and kept is not None:
            self._tell("on_trial_restore", trial=one)

    def _note_error(self, one: Trial, error: str) -> None:
        one.error = error
        one.run_metadata.num_failures += 1
        one.init_local_path()
        one.error_file = str(Path(one.path, _ERROR_FILE))  # type: ignore[assignment]
        with Path(one.path, _ERROR_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{error}\n")

    def _show(self, *, done: bool) -> None:
        if self._reporter is not None and self._reporter.should_report(self._all, done=done):
            self._reporter.report(self._all, done)

    def _step(self, name: str) -> None:
        for each in self._callbacks:
            getattr(each, name)(iteration=self._reports, trials=self._all)

    def _tell(self, name: str, **what: Any) -> None:
        for each in self._callbacks:
            getattr(each, name)(iteration=self._reports, trials=self._all, **what)
