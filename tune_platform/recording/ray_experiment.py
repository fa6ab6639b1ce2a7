"""Reads the folder of a finished experiment of Ray Tune's, of Ray 2.7 to today. Nothing is unpickled.

EXPERIMENT/experiment_state-*.json    which trials there are and how each ended
EXPERIMENT/TRIAL/params.json          its config
EXPERIMENT/TRIAL/result.json          a line of JSON for each report; the last part of the last may be missing
EXPERIMENT/TRIAL/error.txt            the traceback of a failed trial
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tune_platform.errors import ExperimentError
from tune_platform.recording.recording import Recording, seconds

#: What Ray Tune puts into every result beside the metrics.
FILLED = frozenset({
    "config", "date", "hostname", "node_ip", "pid", "trial_id", "experiment_tag", "timestamp", "done",
    "checkpoint_dir_name", "iterations_since_restore", "time_since_restore", "time_this_iter_s", "should_checkpoint",
    "timesteps_since_restore", "warmup_time", "experiment_id",
})  # fmt: skip


class RayTrial(NamedTuple):
    """A trial of Ray Tune's: `results` are its lines, `error` the traceback."""

    id: str
    status: str
    config: Mapping[str, Any] | None
    results: list[dict[str, Any]]
    error: str
    started: float | None


def metrics_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the training code reported, with `training_iteration` and `time_total_s`."""
    return {name: value for name, value in result.items() if name not in FILLED}


class RayExperiment:
    """An experiment's folder. Raises ExperimentError where it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Their names have the time when each run of the experiment began; times of files change with a copy.
        found = sorted(folder.glob("experiment_state-*.json"), key=lambda path: path.name)
        self._state = _json_of(found[-1].read_text()) if found else None
        self.trials = sorted(self._trials(), key=_order)
        if not self.trials:
            inside = sorted(path.parent.name for path in folder.glob("*/experiment_state-*.json"))
            if inside:
                names = ", ".join(dict.fromkeys(inside))
                raise ExperimentError(f"{folder} holds several experiments of Ray Tune's; import one of them: {names}")
            raise ExperimentError(
                f"{folder} is not an experiment of Ray Tune's: it has neither an experiment_state-*.json that tells of "
                "trials nor folders of trials with a params.json or result.json"
            )

    @property
    def metric(self) -> str | None:
        """The metric of its Tuner, where the folder says it."""
        found = (self._state or {}).get("runner_data", {}).get("_metric")
        return found if isinstance(found, str) else None

    def metric_names(self) -> list[str]:
        """Names of all numbers that were reported."""
        names = {
            name: None
            for trial in self.trials
            for result in trial.results[-1:]
            for name, value in metrics_of(result).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        return list(names)

    @property
    def began(self) -> float:
        """When it began, in seconds since the epoch."""
        times = [time for trial in self.trials for time in (trial.started, *_times(trial.results[:1])) if time]
        return seconds((self._state or {}).get("stats", {}).get("start_time"), min(times, default=0.0))

    def record(self, recording: Recording) -> None:
        """Write all of it."""
        began, last = self.began, self.began
        for trial in self.trials:
            at = trial.started or next(iter(_times(trial.results)), began)
            number = recording.add(trial.config or {}, at, key=trial.id)
            if trial.status == "PENDING":
                continue
            worker = ""
            if trial.results:
                first = trial.results[0]
                worker = f"{first.get('hostname', '')}:{first.get('pid', '')}".strip(":")
            recording.start(number, at, worker)
            reached = 0
            for result in trial.results:
                step = result.get("training_iteration", reached + 1)
                if isinstance(step, int) and step <= reached:
                    continue  # an attempt that went on from a checkpoint reported it anew
                reached, at = step, max(at, seconds(result.get("timestamp"), at))
                recording.report(number, metrics_of(result), at)
            last = max(last, at)
            _end(recording, number, trial, at)
            recording.write()
        recording.finish("finished", f"imported from {self.folder}", last)

    def _trials(self) -> Iterator[RayTrial]:
        left = {
            home.name: _trial(home)
            for home in sorted(self.folder.iterdir())
            if home.is_dir() and any((home / name).is_file() for name in ("params.json", "result.json"))
        }
        for mine, runtime in _told(self._state):
            found = left.pop(_home_of(mine, left), None) or _trial(self.folder / str(mine.get("trial_id")))
            yield found._replace(
                id=str(mine.get("trial_id", found.id)),
                status=str(mine.get("status", found.status)),
                config=found.config if found.config is not None else _without_pickles(mine.get("config") or {}),
                started=runtime.get("start_time") or mine.get("start_time") or found.started,
            )
        for found in left.values():
            yield found


def _home_of(mine: Mapping[str, Any], homes: Mapping[str, RayTrial]) -> str:
    """Return which of the folders is that of a trial: by what the state says, or by the trial's id."""
    told = mine.get("relative_logdir") or mine.get("logdir")
    if told and Path(str(told)).name in homes:
        return Path(str(told)).name
    wanted = str(mine.get("trial_id"))
    for name, found in homes.items():
        # A folder is called TRAINABLE_ID, or TRAINABLE_ID_NUMBER_PARAMETERS_DATE.
        if found.id == wanted or f"_{wanted}_" in f"{name}_":
            return name
    return ""


def _order(trial: RayTrial) -> tuple[str, float, str]:
    """Order trials as Ray Tune made them: the ids of one run are "bcf60_00000", "bcf60_00001" ..., others draws."""
    numbered = re.fullmatch(r"(\w+)_(\d{5,})", trial.id)
    return (numbered[1], float(numbered[2]), "") if numbered else ("", trial.started or 0.0, trial.id)


def _end(recording: Recording, number: int, trial: RayTrial, at: float) -> None:
    if trial.status == "ERROR":  # error.txt also stays where a later attempt went well
        lines = trial.error.strip().splitlines()
        recording.fail(number, at, lines[-1] if lines else "no message was kept", traceback=trial.error)
    elif trial.status == "TERMINATED":
        if trial.results and trial.results[-1].get("done"):
            recording.stop(number, at, "Ray Tune ended it: its scheduler, or a stop condition")
        else:
            recording.complete(number, at)
    else:
        recording.stop(number, at, f"it was {trial.status} when the experiment was left")


def _told(state: Mapping[str, Any] | None) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield what the state says of each trial: itself, and what became of it. Up to Ray 2.5 both were one."""
    state = state or {}
    for entry in state.get("trial_data") or state.get("checkpoints") or ():
        parts = entry if isinstance(entry, list) else [entry]
        data = [found for part in parts if (found := _json_of(part) if isinstance(part, str) else part)]
        if data and isinstance(data[0], dict):
            yield data[0], data[1] if len(data) > 1 and isinstance(data[1], dict) else {}


def _trial(home: Path) -> RayTrial:
    """Return what the folder of a trial says; its config is None where there is none."""
    results: list[dict[str, Any]] = []
    if (home / "result.json").is_file():
        for line in (home / "result.json").read_text(errors="replace").splitlines():
            if isinstance(found := _json_of(line), dict):
                results.append(found)
    params = _json_of((home / "params.json").read_text()) if (home / "params.json").is_file() else None
    if params is None and results:
        params = results[-1].get("config", {})
    error = (home / "error.txt").read_text(errors="replace") if (home / "error.txt").is_file() else ""
    failed = error and not (results and results[-1].get("done"))  # what a scheduler ended went on after its error
    status = "ERROR" if failed else "TERMINATED"
    return RayTrial(
        results[0].get("trial_id", home.name) if results else home.name, status, params, results, error, None
    )


def _without_pickles(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("_type") == "CLOUDPICKLE_FALLBACK":
            return "(an object of Python)"
        return {key: _without_pickles(item) for key, item in value.items()}
    return [_without_pickles(item) for item in value] if isinstance(value, list) else value


def _times(results: list[dict[str, Any]]) -> list[float]:
    return [float(result["timestamp"]) for result in results if isinstance(result.get("timestamp"), (int, float))]


def _json_of(text: str) -> Any:
    """Return what a text of JSON says; None for one that was cut short."""
    try:
        return json.loads(text)
    except ValueError:
        return None
