"""`Results`: what an experiment found, read from the store alone.

    results = run(spec)
    results.best().config
    results.dataframe()

Works on an experiment that is finished, still running, or whose driver was killed; every call reads what
the store holds at that moment. What does not belong here: anything that changes an experiment.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tune_platform.errors import CheckpointError, ExperimentError, SpecError, did_you_mean
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.store.records import CheckpointRow, ExperimentRow, LogRow, TrialRow
from tune_platform.store.sql import FILE_NAME, SqlExperiment, open_store

if TYPE_CHECKING:
    import pandas as pd

Scope = Literal["best", "last"]


class NoResultError(ExperimentError):
    """No trial has a value of the metric that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What is known of one trial. Times are in seconds since the epoch; `best` is of the first metric."""

    number: int
    status: str  # PENDING | STARTING | RUNNING | PAUSING | PAUSED | COMPLETED | STOPPED | FAILED
    reason: str = ""  # why it is in this state
    config: Mapping[str, Any] = field(default_factory=dict)  # nested, as the training code got it
    best: float | None = None  # the best value so far
    best_step: int | None = None  # ... and the report that had it
    step: int = 0  # number of the last report
    metrics: Mapping[str, Any] = field(default_factory=dict)  # of the last report
    error: str = ""  # traceback or message of the last failure
    checkpoint: str | None = None  # URI of the newest checkpoint
    origin: str = "searcher"  # searcher | start | user
    attempt: int = 0  # how often it was launched
    worker: str = ""
    created: float = 0.0
    started: float | None = None
    ended: float | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from its first start to its end; None where it has not both."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def message(self) -> str:
        """The last line of `error`: what went wrong, without where."""
        lines = [line for line in self.error.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One line of a trial's history: at `time` (epoch seconds), after report `step`, this happened."""

    time: float
    step: int | None
    #: suggested | launched | continue | pause | stop | clone | resize | moved | failed | requested | ended | resumed
    verdict: str
    reason: str
    cause: str = ""  # the fact that it followed from, in words; empty for what is a fact itself


class Results:
    """The results of one experiment.

    `name` may be the unique beginning of a name, or the path of an experiment's folder; `storage` is the
    directory or database URL that holds it. `finish` is how a run that has just ended did.
    Raises ExperimentError where there is no such experiment.
    """

    def __init__(self, name: str | Path, *, storage: str | Path | None = None, finish: Finish | None = None) -> None:
        name, self.storage = locate(name, storage)
        self.name = name
        with self._open() as experiment:
            self.name = experiment.name
            self.spec: Mapping[str, Any] = experiment.spec
        objective = self.spec.get("objective", ())
        objectives = [objective] if isinstance(objective, Mapping) else list(objective)
        self.metrics = tuple(str(each["metric"]) for each in objectives)
        self.modes = tuple(str(each["mode"]) for each in objectives)
        self._finish = finish

    # ------------------------------------------------------------------------------- the experiment

    @property
    def metric(self) -> str:
        """The metric that trials are ranked by: the first, where there are several."""
        return self.metrics[0] if self.metrics else ""

    @property
    def mode(self) -> str:
        """Whether less or more of it is better: min or max."""
        return self.modes[0] if self.modes else "min"

    @property
    def status(self) -> str:
        """Return finished | failed | stopped | interrupted | running | crashed, as the store has it now."""
        return self.row().status

    @property
    def finish(self) -> Finish:
        """How it ended: `status` and `reason`. Of a running or crashed experiment these say so."""
        if self._finish is not None:
            return self._finish
        row = self.row()
        return Finish(status=row.status, reason=row.reason)

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are in each status; statuses without trials are left out."""
        return dict(self.row().counts)

    def row(self) -> ExperimentRow:
        """Return the experiment's own row of the store."""
        with self._open() as experiment:
            return experiment.row()

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[TrialResult]:
        return iter(self.trials())

    def __getitem__(self, number: int) -> TrialResult:
        return self.trial(number)

    def __repr__(self) -> str:
        row = self.row()
        counts = ", ".join(f"{count} {status.lower()}" for status, count in row.counts.items()) or "none yet"
        try:
            best = self.best()
            found = f"; best {self.metric} {best.best:.5g} in trial {best.number}"
        except ExperimentError:
            found = ""
        return f"<Results {self.name!r} {row.status}; trials: {counts}{found}>"

    # ------------------------------------------------------------------------------- trials

    def trials(self, *, status: str | None = None, order: str = "trial", limit: int | None = None) -> list[TrialResult]:
        """Return the trials, perhaps only of one status.

        `order` is trial, best, step, created, started or ended, with "-" before it descending; trials
        without the value come last. Raises SpecError for any other.
        """
        with self._open() as experiment:
            rows = experiment.trials(status=status and status.upper(), order=order, limit=limit)
            if limit is not None and len(rows) <= 50:  # few of perhaps very many
                saved = self._newest([kept for row in rows for kept in experiment.checkpoints(row.trial)])
            else:
                saved = self._newest(experiment.checkpoints())
        return [_result(row, saved.get(row.trial)) for row in rows]

    def trial(self, number: int) -> TrialResult:
        """Return one trial. Raises ExperimentError if there is none of this number."""
        with self._open() as experiment:
            return _result(experiment.trial(number), self._newest(experiment.checkpoints(number)).get(number))

    def best(self, scope: Scope = "best", metric: str | None = None, mode: str | None = None) -> TrialResult:
        """Return the best trial, with its value as `best` and the report that had it as `best_step`.

        `scope` says which value counts: "best" the best that it ever reported, "last" that of its last
        report (what Ray Tune takes). `metric` is the first of the search if None; a metric that the search
        did not optimise needs a `mode`. Raises NoResultError, which says why, where no trial has a value.
        """
        metric, mode = self._objective(metric, mode)
        if scope not in ("best", "last"):
            raise SpecError(f"scope: got {scope!r}; allowed: best, last")
        if scope == "last":
            found = _last_values(self.trials(), metric)
        elif metric == self.metric and mode == self.mode:
            found = self.trials(order="-best" if mode == "max" else "best", limit=1)
            found = [trial for trial in found if trial.best is not None]
        else:
            found = self._best_values(metric, mode)
        if not found:
            raise NoResultError(self._no_value(metric))
        sign = -1.0 if mode == "max" else 1.0
        return min(found, key=lambda trial: (sign * (trial.best or 0.0), trial.number))

    def pareto(self) -> list[TrialResult]:
        """Return the trials that no other one beats in every metric, by the values of their last reports."""
        signs = [-1.0 if mode == "max" else 1.0 for mode in self.modes]
        points = []
        for trial in self.trials():
            values = [_number(trial.metrics.get(name)) for name in self.metrics]
            if values and None not in values:
                points.append((tuple(s * (v or 0.0) for s, v in zip(signs, values, strict=True)), trial))
        front: list[tuple[tuple[float, ...], TrialResult]] = []
        # In this order nothing that comes later can beat what is in the front already.
        for point, trial in sorted(points, key=lambda entry: (entry[0], entry[1].number)):
            if not any(_dominates(other, point) for other, _ in front):
                front.append((point, trial))
        return sorted((trial for _, trial in front), key=lambda trial: trial.number)

    def metrics_at(self, trial: int, step: int | None) -> dict[str, Any]:
        """Return all metrics of one report, such as a trial's best; empty where there is no such report."""
        if step is None:
            return {}
        with self._open() as experiment:
            for report in experiment.reports(trial=trial, after_step=step - 1):
                return dict(report.metrics) if report.step == step else {}
        return {}

    def errors(self) -> dict[int, str]:
        """Return the traceback (or message) of each failed trial by its number."""
        return {trial.number: trial.error or trial.reason for trial in self.trials(status="FAILED")}

    def why(self, trial: int) -> list[Reason]:
        """Return what happened to a trial and was decided about it, when and why, oldest first."""
        with self._open() as experiment:
            now = experiment.trial(trial)
            history, facts = experiment.history(trial), experiment.causes(trial)
        lines = [line for row in history if (line := _reason(row, facts.get(row.stimulus or 0))) is not None]
        if now.ended is not None:
            told = bool(lines) and now.reason in lines[-1].reason  # the verdict has said so already
            text = now.status if told else f"{now.status}: {now.reason}"
            lines.append(Reason(time=now.ended, step=now.step, verdict="ended", reason=text))
        return lines

    def checkpoint(self, trial: int, step: int | None = None) -> CheckpointRef:
        """Return where the checkpoint of a trial lies, as a path or URL; the newest, if `step` is None.

        Raises CheckpointError where there is none.
        """
        with self._open() as experiment:
            experiment.trial(trial)
            rows = experiment.checkpoints(trial)
        kept = [row for row in rows if step is None or row.step == step]
        if not kept:
            steps = ", ".join(str(row.step) for row in rows) or "none"
            wanted = "" if step is None else f" of step {step}"
            raise CheckpointError(f"trial {trial} of {self.name!r} has no checkpoint{wanted}; kept: {steps}")
        row = kept[-1]
        return CheckpointRef(row.trial, row.step, self._located(row.uri), row.bytes)

    def _newest(self, rows: Sequence[CheckpointRow]) -> dict[int, str]:
        return {row.trial: self._located(row.uri) for row in rows}  # they come by step: the last one stays

    def _located(self, uri: str) -> str:
        """Return where a checkpoint lies that may be named by its path within the experiment's folder."""
        if "://" in uri or "://" in self.storage or Path(uri).is_absolute():
            return uri
        return str(Path(self.storage).expanduser().absolute() / self.name / uri)

    # ------------------------------------------------------------------------------- tables

    def curves(self, metric: str | None = None) -> dict[int, list[tuple[int, float]]]:
        """Return (step, value) of each trial's reports; `metric` is the first of the search if None."""
        name = metric or self.metric
        curves: dict[int, list[tuple[int, float]]] = {}
        with self._open() as experiment:
            for report in experiment.reports():
                value = report.metrics.get(name)
                if isinstance(value, (int, float)):
                    curves.setdefault(report.trial, []).append((report.step, float(value)))
        return curves

    def dataframe(self, reports: bool = False) -> pd.DataFrame:
        """Return one row per trial, or one per report.

        Configs are in columns such as "config/lr", metrics (of the last report, or of this one) in
        "metrics/loss"; times are in seconds since the epoch.
        """
        import pandas as pd

        if reports:
            with self._open() as experiment:
                rows = [
                    {"trial": r.trial, "step": r.step, "time": r.time, **flatten(r.metrics, "metrics")}
                    for r in experiment.reports()
                ]
            return pd.DataFrame(rows, columns=_columns(rows, ("trial", "step", "time")))
        names = ("status", "reason", "origin", "attempt", "step", "best", "best_step")
        times = ("created", "started", "ended", "duration", "worker", "checkpoint")
        table = [
            {
                "trial": trial.number,
                **{name: getattr(trial, name) for name in names},
                "error": trial.message,
                **{name: getattr(trial, name) for name in times},
                **flatten(trial.config, "config"),
                **flatten(trial.metrics, "metrics"),
            }
            for trial in self.trials()
        ]
        return pd.DataFrame(table, columns=_columns(table, ("trial", *names, "error", *times)))

    # ------------------------------------------------------------------------------- inside

    @contextlib.contextmanager
    def _open(self) -> Iterator[SqlExperiment]:
        # Opened anew for each question: nothing is held open while a driver or a person works on the files.
        with open_store(self.storage) as store, store.open(self.name, readonly=True) as experiment:
            yield experiment

    def _objective(self, metric: str | None, mode: str | None) -> tuple[str, str]:
        metric = metric or self.metric
        known = dict(zip(self.metrics, self.modes, strict=True))
        if mode not in (None, "min", "max"):
            raise SpecError(f"mode: got {mode!r}; allowed: min, max")
        if mode is None and metric not in known:
            text = f"metric {metric!r} was not optimised here{did_you_mean(metric, known)}"
            raise SpecError(f"{text}: say with mode whether less (min) or more (max) of it is better")
        return metric, mode or known[metric]

    def _best_values(self, metric: str, mode: str) -> list[TrialResult]:
        best: dict[int, tuple[float, int]] = {}
        sign = -1.0 if mode == "max" else 1.0
        with self._open() as experiment:
            for report in experiment.reports():
                value = _number(report.metrics.get(metric))
                old = best.get(report.trial)
                if value is not None and (old is None or sign * value < sign * old[0]):
                    best[report.trial] = value, report.step
        return [
            replace(trial, best=best[trial.number][0], best_step=best[trial.number][1])
            for trial in self.trials()
            if trial.number in best
        ]

    def _no_value(self, metric: str) -> str:
        trials = self.trials()
        text = f"no trial of {self.name!r} has a value of {metric!r}"
        if not trials:
            return f"{text}: there are no trials yet"
        counts = Counter(trial.status.lower() for trial in trials)
        causes = Counter(trial.message or trial.reason for trial in trials if trial.status == "FAILED")
        text += ": " + ", ".join(f"{count} {status}" for status, count in counts.items())
        for cause, count in causes.most_common(3):
            text += f"\n  {count} x {cause}"
        names = sorted({name for trial in trials for name in trial.metrics})
        return text + (f"\n  reported were: {', '.join(names)}{did_you_mean(metric, names)}" if names else "")


# ------------------------------------------------------------------------------------------ helpers


def locate(name: str | Path, storage: str | Path | None = None) -> tuple[str, str]:
    """Return (name, storage) of an experiment that was given by name or by the path of its folder or file."""
    text, path = str(name), Path(name).expanduser()
    if path.name == FILE_NAME:
        path = path.parent
    inside = storage is None and (path / FILE_NAME).exists()
    if isinstance(name, Path) or "/" in text or text == "." or inside:
        path = path.absolute() if path.name else path.resolve()
        return path.name, str(path.parent)
    if storage is None:
        storage = default_storage()
    return text, str(storage)


def default_storage() -> str:
    """Return TUNE_PLATFORM_STORAGE, or `tune_results` in the present folder."""
    # The rule of `tune_platform.spec`, without the half second that importing that takes (a test compares them).
    return os.environ.get("TUNE_PLATFORM_STORAGE") or "tune_results"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dict by their paths: {"a": {"b": 1}} is {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def _columns(rows: Iterable[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    names = dict.fromkeys(first)
    for row in rows:
        names.update(dict.fromkeys(row))
    rest = list(names)[len(first) :]
    # All of the config before all of the metrics, in the order in which they first came.
    return [*first, *sorted(rest, key=lambda name: not name.startswith("config/"))]


def _result(row: TrialRow, checkpoint: str | None) -> TrialResult:
    return TrialResult(
        number=row.trial,
        status=row.status,
        reason=row.reason,
        config=row.config,
        best=row.best,
        best_step=row.best_step,
        step=row.step,
        metrics=row.metrics,
        error=row.error,
        checkpoint=checkpoint,
        origin=row.origin,
        attempt=row.attempt,
        worker=row.worker,
        created=row.created,
        started=row.started,
        ended=row.ended,
    )


def _last_values(trials: Sequence[TrialResult], metric: str) -> list[TrialResult]:
    """Give each trial that has one the value of its last report in place of its best."""
    found = []
    for trial in trials:
        value = _number(trial.metrics.get(metric))
        if value is not None:
            found.append(replace(trial, best=value, best_step=trial.step))
    return found


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse (greater) than `other`, and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _reason(row: LogRow, fact: LogRow | None) -> Reason | None:
    """Return the line that a row of the log is worth in the history of a trial, if any; `fact` is what caused it."""
    if row.kind == "resumed":
        return Reason(time=row.time, step=None, verdict="resumed", reason="a new driver took over")
    if row.trial is None:
        return None
    step, verdict, data = row.data.get("step"), row.kind, row.data
    if row.kind == "verdict":
        verdict, reason = str(data["verdict"]), str(data.get("reason") or "")
        if verdict == "clone":
            reason = f"from trial {data['source']}: {reason}"
        if data.get("until") is not None:
            reason = f"{reason}; until {data['until']:g}" if reason else f"until {data['until']:g}"
    elif row.kind == "launched":
        nodes = ", ".join(str(node) for node in sorted(set(data["nodes"])))
        reason = f"attempt {data['attempt']} on node {nodes}"
        if data.get("until") is not None:
            reason += f"; until {data['until']:g}"
    elif row.kind == "moved":
        reason = f"{data['status']}: {data['reason']}" if data["reason"] else str(data["status"])
    elif row.kind == "suggested":
        origins = {"searcher": "by the searcher", "start": "as a start point", "user": "by a person"}
        step, reason = 0, origins.get(str(data.get("origin")), "")
    elif row.kind == "failed":
        reason = f"attempt {data.get('attempt')}: {data.get('cause')}: {data.get('message')}"
    elif row.kind == "requested":
        reason = f"a person asked: {data.get('action')}"
    else:
        return None
    return Reason(time=row.time, step=step, verdict=verdict, reason=reason, cause=_fact(fact) if fact else "")


def _fact(row: LogRow) -> str:
    """Return a fact of the log in words."""
    data, trial = row.data, f"trial {row.trial}"
    match row.kind:
        case "reported" if data["last"] >= data["first"]:
            first, last = data["first"], data["last"]
            return f"{trial} reported step {last}" if first == last else f"{trial} reported steps {first} to {last}"
        case "reported":
            return f"{trial} came to its end"
        case "saved":
            return f"{trial} was saved" if data["checkpoint"] else f"{trial} had nothing to save"
        case "failed":
            return f"{trial} failed: {data['cause']}"
        case "suggested":
            return f"{trial} was suggested"
        case "started":
            return f"{trial} started"
        case "requested":
            return f"a person asked: {data['action']}" + ("" if row.trial is None else f" {trial}")
        case "capacity":
            return "there was a change of nodes"
        case "exhausted":
            return f"no more suggestions: {data['reason']}"
    return {"ticked": "time passed", "resumed": "a new driver took over"}.get(row.kind, row.kind)
