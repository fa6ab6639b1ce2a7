"""Ray Tune's callbacks and loggers, called from ours, with a stand-in for its Trial."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tune_platform.callbacks import Callback
from tune_platform.protocol.trial_log import folder_of
from tune_platform.ray_tune.session import trial_id


class Trial:
    """What a callback of Ray Tune's may read of a trial."""

    def __init__(self, number: int, config: dict[str, Any], folder: Path, trainable: str) -> None:
        self.number, self.config, self.evaluated_params, self.path = number, config, config, str(folder)
        self.trial_id, self.trainable_name, self.status = trial_id(number), trainable, "PENDING"
        self.last_result: dict[str, Any] = {}
        self.custom_trial_name: str | None = None

    local_path = property(lambda self: self.path)
    logdir = local_path
    experiment_tag = property(lambda self: str(self.number))

    def init_local_path(self) -> None:
        """Make its folder."""
        Path(self.path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.custom_trial_name or f"{self.trainable_name}_{self.trial_id}"

    __repr__ = __str__


class RayCallbacks(Callback):
    """Calls Ray Tune's callbacks: when all begins and ends, and when a trial starts, reports, completes or fails.

    `storage` holds the experiment's folder. `names` and `folders` are Ray Tune's `trial_name_creator` and
    `trial_dirname_creator`: what the latter returns is a link in the experiment's folder to the trial's own.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        *,
        storage: str,
        trainable: str,
        samples: int,
        names: Callable[[Any], str] | None = None,
        folders: Callable[[Any], str] | None = None,
    ) -> None:
        self._callbacks, self._storage, self._trainable, self._samples = list(callbacks), storage, trainable, samples
        self._names, self._folders = names, folders
        self._trials: dict[int, Trial] = {}  # those that live
        self._all: list[Trial] = []  # as Ray Tune passes them: every trial, its last result in it
        self._reports = 0

    def on_start(self, run: Any) -> None:
        """Call `setup`."""
        for each in self._callbacks:
            each.setup(stop=None, num_samples=self._samples, total_num_samples=self._samples)

    def on_suggest(self, run: Any, trial: Any) -> None:
        """Name the trial."""
        self._of(run, trial)

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        """Call `on_trial_start` before the first report, then `on_trial_result`."""
        one = self._of(run, trial)
        self._begin(one)
        self._reports += 1
        one.last_result = {
            **report.metrics, "training_iteration": report.step, "trial_id": one.trial_id, "config": one.config,
            "timestamp": report.time, "done": False,
        }  # fmt: skip
        self._tell("on_trial_result", trial=one, result=one.last_result)

    def on_trial_end(self, run: Any, trial: Any) -> None:
        """Call `on_trial_complete`, or `on_trial_error`."""
        one = self._of(run, trial)
        self._begin(one)
        one.status = "ERROR" if trial.status == "FAILED" else "TERMINATED"
        self._tell("on_trial_error" if one.status == "ERROR" else "on_trial_complete", trial=one)
        self._trials.pop(trial.number, None)

    def on_finish(self, run: Any, finish: Any) -> None:
        """Call `on_experiment_end`."""
        for each in self._callbacks:
            each.on_experiment_end(trials=self._all)

    def _of(self, run: Any, trial: Any) -> Trial:
        found = self._trials.get(trial.number)
        if found is None:
            home = Path(self._storage).expanduser().absolute() / run.name
            folder = Path(folder_of(str(home / "trials"), trial.number))
            found = self._trials[trial.number] = Trial(trial.number, dict(trial.config), folder, self._trainable)
            self._all.append(found)
            if self._names is not None:
                found.custom_trial_name = str(self._names(found))
            if self._folders is not None:
                with contextlib.suppress(FileExistsError):
                    (home / Path(self._folders(found)).name).symlink_to(folder, target_is_directory=True)
        return found

    def _begin(self, trial: Trial) -> None:
        if trial.status == "PENDING":
            trial.status = "RUNNING"
            self._tell("on_trial_start", trial=trial)

    def _tell(self, name: str, **what: Any) -> None:
        for each in self._callbacks:
            getattr(each, name)(iteration=self._reports, trials=self._all, **what)
