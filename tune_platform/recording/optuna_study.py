"""Reads a study of an Optuna storage: each trial with a report for each intermediate value, and one for its values.

What a trial is judged by is what its objective returned, as for Optuna's own `best_trial`: intermediate values go by
another name, so a trial that was pruned has no value.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from tune_platform.errors import ExperimentError, did_you_mean
from tune_platform.recording.recording import Recording

#: The metrics of a report that was an intermediate value: itself, and the step that Optuna was told.
INTERMEDIATE, STEP = "intermediate_value", "trial_step"


class OptunaStudy:
    """A study in the storage at `url`; `name` may be left out where there is one.

    Raises ExperimentError where there is no such storage or study.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        import optuna

        file = url.removeprefix("sqlite:///").partition("?")[0]
        if url.startswith("sqlite:///") and file != ":memory:" and not Path(file).is_file():
            raise ExperimentError(f"there is no file {file}, which {url} names")  # Optuna would make one
        try:
            names = optuna.get_all_study_names(storage=url)
            if name is None and len(names) == 1:
                name = names[0]
            if not names:
                raise ExperimentError(f"{url} has no studies")
            if name not in names:
                said = f"no study {name!r}{did_you_mean(name, names)}" if name else "say with --study which"
                raise ExperimentError(f"{said}; the storage has: {', '.join(names)}")
            self.study = optuna.load_study(study_name=name, storage=url)
        except ExperimentError:
            raise
        except Exception as error:  # SQLAlchemy's and Optuna's own, of a dozen kinds
            raise ExperimentError(f"{type(error).__name__} of the Optuna storage: {error}") from error
        self.name = str(name)
        self.modes = tuple("max" if each.name == "MAXIMIZE" else "min" for each in self.study.directions)
        many = len(self.modes) > 1
        names = self.study.metric_names or ([f"value_{n}" for n in range(len(self.modes))] if many else ["value"])
        self.metrics = tuple(str(each) for each in names)
        self.trials = [trial for trial in self.study.trials if trial.state.name != "WAITING"]

    @property
    def began(self) -> float:
        """When its first trial began, in seconds since the epoch."""
        return min((_epoch(trial.datetime_start) for trial in self.trials), default=0.0)

    def record(self, recording: Recording) -> None:
        """Write all of it."""
        last = self.began
        for trial in self.trials:
            began = _epoch(trial.datetime_start) or self.began
            ended = max(began, _epoch(trial.datetime_complete))
            last = max(last, ended)
            number = recording.add(trial.params, began, key=str(trial.number))
            recording.start(number, began)
            beside = {f"user_attrs/{name}": value for name, value in trial.user_attrs.items()}
            for step, value in sorted(trial.intermediate_values.items()):
                recording.report(number, {INTERMEDIATE: value, STEP: step}, began)
            self._end(recording, number, trial, ended, beside)
            recording.write()
        recording.finish("finished", f"imported from the Optuna study {self.name}", last)

    def _end(self, recording: Recording, number: int, trial: Any, ended: float, beside: dict[str, Any]) -> None:
        state = trial.state.name
        if state == "COMPLETE":
            recording.report(number, {**beside, **dict(zip(self.metrics, trial.values, strict=True))}, ended)
            recording.complete(number, ended)
        elif state == "PRUNED":
            recording.stop(number, ended, "Optuna's pruner ended it")
        elif state == "FAIL":
            recording.fail(number, ended, str(trial.system_attrs.get("fail_reason", "the objective failed")))
        else:
            recording.stop(number, ended, f"it was {state} when the study was read")


def _epoch(time: datetime | None) -> float:
    return time.timestamp() if time else 0.0
