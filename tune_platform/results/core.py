"""`Results`: the experiment's questions and their answers, each read from the store anew."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tune_platform.errors import CheckpointError, ExperimentError, SpecError, did_you_mean
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.configs import Unavailable, from_json, to_json
from tune_platform.protocol.reports import CheckpointRef, finite
from tune_platform.protocol.trial_log import folder_of
from tune_platform.results.checkpoints import Checkpoint, Origin
from tune_platform.results.configs import ConfigResult, ranked
from tune_platform.results.history import Reason, reasons_of
from tune_platform.results.lineage import Lineage
from tune_platform.results.places import locate
from tune_platform.results.spent import Spent, spent_of
from tune_platform.results.tables import flatten, frame_of, rank_of, row_columns, row_of
from tune_platform.results.trials import TrialResult, front, last_values, moment, result_of
from tune_platform.store.checkpoints import CheckpointStorage
from tune_platform.store.records import CheckpointRow, ExperimentRow, TrialRow
from tune_platform.store.sql import SqlExperiment, open_store

if TYPE_CHECKING:
    import pandas as pd

#: Where a trial may stand.
STATUSES = ("PENDING", "STARTING", "RUNNING", "PAUSING", "PAUSED", "COMPLETED", "STOPPED", "FAILED")
Scope = Literal["best", "last"]


class NoResultError(ExperimentError):
    """No trial has a value of the metric that was asked for."""


class Results:
    """The results of one experiment.

    `name` may be the unique beginning of a name, or the path of an experiment's folder; `storage` is the
    directory or database URL that holds it. `finish` is how a run that has just ended did; `trainable` the live
    class or function, where the store has only its name.
    Raises ExperimentError where there is no such experiment.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        storage: str | Path | None = None,
        finish: Finish | None = None,
        trainable: Any = None,
    ) -> None:
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
        self._trainable = self.spec.get("entrypoint") if trainable is None else trainable

    # ------------------------------------------------------------------------------- the experiment

    def check(self) -> None:
        """Warn where rows of the log are missing. `tune-platform doctor EXP` looks at all there is."""
        with self._open() as experiment:
            experiment.check_log()

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
        without the value come last. Raises SpecError for any other, and for a status that there is not.
        """
        if status is not None and status.upper() not in STATUSES:
            words = [word.lower() for word in STATUSES]
            hint = did_you_mean(status.lower(), words)
            raise SpecError(f"there is no status {status!r}{hint}; allowed: {', '.join(words)}")
        with self._open() as experiment:
            rows = experiment.trials(status=status and status.upper(), order=order, limit=limit)
            return self._made(experiment, rows, few=limit is not None and len(rows) <= 50)

    def trial(self, number: int) -> TrialResult:
        """Return one trial. Raises ExperimentError if there is none of this number."""
        with self._open() as experiment:
            return self._made(experiment, [experiment.trial(number)], few=True)[0]

    def best(self, scope: Scope = "best", metric: str | None = None, mode: str | None = None) -> TrialResult:
        """Return the best trial: `best` is its value, `best_step` the report that had it, `metrics` are that report's.

        `scope` says which value counts: "best" the best finite one that a trial ever reported, "last" that of its last
        report (what Ray Tune takes). `metric` is the first of the search if None; a metric that the search
        did not optimise needs a `mode`. Where configs are repeated, it is the best trial of the best of `configs`.
        Raises NoResultError, which says why, where no trial has a value.
        """
        metric, mode = self._objective(metric, mode)
        if scope not in ("best", "last"):
            raise SpecError(f"scope: got {scope!r}; allowed: best, last")
        if scope == "last":
            found = [trial for trial in last_values(self.trials(), metric) if trial.best is not None]
        elif self.metrics == (metric,) and mode == self.mode:
            found = self.trials(order="-best" if mode == "max" else "best", limit=1)
            found = [trial for trial in found if trial.best is not None]
        else:
            found = self._best_values(metric, mode)
        if not found:
            raise NoResultError(self._no_value(metric))
        sign = -1.0 if mode == "max" else 1.0
        if self.replicates > 1:
            found = [trial for trial in self._ranked(metric, mode, scope)[0].trials if trial.best is not None]
        return min(found, key=lambda trial: (sign * (trial.best or 0.0), trial.number))

    @property
    def replicates(self) -> int:
        """How often the search tries each config, with other seeds: 1 unless `duplicates` is `replicate`."""
        return int((self.spec.get("search") or {}).get("replicates") or 1)

    def configs(self, scope: Scope = "best", metric: str | None = None, mode: str | None = None) -> list[ConfigResult]:
        """Return the configs, best first, each with its trials, and the mean, the spread and the count of their values.

        Those that have been tried as often as the search wants come first. `scope`, `metric` and `mode` as in `best`.
        """
        return self._ranked(*self._objective(metric, mode), scope)

    def _ranked(self, metric: str, mode: str, scope: Scope) -> list[ConfigResult]:
        if scope == "last":
            trials = last_values(self.trials(), metric)
        elif self.metrics == (metric,) and mode == self.mode:
            trials = self.trials()
        else:
            trials = self._best_values(metric, mode)
        return ranked(trials, mode, self.replicates)

    def pareto(self) -> list[TrialResult]:
        """Return the trials that no other one beats in every metric, by the values of their last reports.

        Those are their `metrics` here.
        """
        return front(last_values(self.trials(), self.metric), self.metrics, self.modes)

    def metric_names(self) -> list[str]:
        """Return the metrics of the search, then those that trials have reported beside them."""
        found = {name for trial in self.trials() for name in trial.last}
        return list(dict.fromkeys((*self.metrics, *sorted(found))))

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
        lines = list(reasons_of(history, facts))
        if now.ended is not None:
            told = bool(lines) and now.reason in lines[-1].reason  # the verdict has said so already
            text = now.status if told else f"{now.status}: {now.reason}"
            lines.append(Reason(time=moment(now.ended), step=now.step, verdict="ended", reason=text))
        return lines

    def spent(self) -> Spent | None:
        """Return what trials have held so far, what it costs, and when a limit of the budget is reached.

        None where the budget has no deadline, no hours of GPUs and no cost: then it is not counted.
        """
        with self._open() as experiment:
            found, row = experiment.spent(), experiment.row()
        if found is None:
            return None
        now = time.time() if row.status == "running" else None
        return spent_of(*found, (row.spec.get("budget") or {}).get("cost"), now)

    def lost_checkpoints(self) -> list[str]:
        """Return which checkpoints that are to be kept are not whole, and why, one line each."""
        with self._open() as experiment:
            kept = experiment.checkpoints()
        found = {}
        for row in kept:
            uri = self._located(row.uri)
            wrong = CheckpointStorage(uri.rsplit("/", 2)[0]).damage(CheckpointRef(row.trial, row.step, uri, row.bytes))
            if wrong:
                found[row.uri] = f"trial {row.trial}: its checkpoint of step {row.step} is lost: {wrong}"
        if found:  # a driver that runs says which it does not need any more, then deletes them
            with self._open() as experiment:
                kept = experiment.checkpoints()
        return [found[row.uri] for row in kept if row.uri in found]

    def out_of_places(self) -> tuple[datetime, list[dict[str, float]]] | None:
        """Return what the nodes have, and since when, where trials of a running search wait and none has a place."""
        with self._open() as experiment:
            row = experiment.row()
            placed = sum(row.counts.get(status, 0) for status in ("STARTING", "RUNNING", "PAUSING"))
            if row.status != "running" or placed or not row.counts.get("PENDING"):
                return None
            changes = list(experiment.log_rows(("capacity",), 0, experiment.last_seq()))
        return (moment(changes[-1].time), [dict(node) for node in changes[-1].data["nodes"]]) if changes else None

    def choices_added(self) -> list[tuple[datetime, dict[str, list[Any]]]]:
        """Return the values that choices of the space have got since it began, and when, by the parameter's name."""
        with self._open() as experiment:
            found = [(moment(row.time), row.data.get("choices")) for row in experiment.resumptions()]
        return [(time, dict(choices)) for time, choices in found if choices]

    def family(self) -> Lineage:
        """Return who went on from whose checkpoint (PBT's clones), and the schedules that come of it."""
        with self._open() as experiment:
            return Lineage(row for row, _ in experiment.read_log(damaged=experiment.leave_out))

    def schedule(self, trial: int) -> list[dict[str, Any]]:
        """Return the configs under which a trial's weights were trained, oldest first, for the scheduler `replay`.

        Each is {"from": steps trained before, "trial": who did, "config": plain values}.
        """
        found: dict[int, dict[str, Any]] = {}
        done = 0
        for segment in self.family().schedule(trial):  # a later one from the same step: the former did not train
            found[done] = {"from": done, "trial": segment.trial, "config": dict(to_json(segment.config))}
            done += segment.last - segment.first if segment.last is not None else 0
        return list(found.values())

    def lineage(self) -> pd.DataFrame:
        """Return one row per clone: trial, step, source, source_step, time, reason, and "config/..." from then on."""
        rows = [
            {
                "trial": clone.trial,
                "step": clone.step,
                "source": clone.source,
                "source_step": clone.source_step,
                "time": clone.time,
                "reason": clone.reason,
                **flatten(clone.config, "config"),
            }
            for clone in self.family().clones
        ]
        return frame_of(rows, ("trial", "step", "source", "source_step", "time", "reason"))

    def checkpoint(self, trial: int, step: int | None = None) -> Checkpoint:
        """Return a checkpoint of a trial: of its best step or the nearest that is kept, or of exactly `step`.

        Raises CheckpointError where there is none.
        """
        found = self.trial(trial)
        exact = next((each for each in reversed(found.checkpoints) if each.step == step), None)
        kept = found.checkpoint if step is None else exact
        if kept is None:
            steps = ", ".join(str(each.step) for each in found.checkpoints) or "none"
            wanted = "" if step is None else f" of step {step}"
            raise CheckpointError(f"trial {trial} of {self.name!r} has no checkpoint{wanted}; kept: {steps}")
        return kept

    def _made(self, experiment: SqlExperiment, rows: Sequence[TrialRow], *, few: bool) -> list[TrialResult]:
        """Return rows as results. `few`: of perhaps very many trials, so that what belongs to others is not read."""
        numbers = [row.trial for row in rows]
        # Of several objectives none is the one whose best report counts: as for searchers, the last values do.
        at_best = experiment.best_reports(numbers if few else None) if len(self.metrics) == 1 else {}
        kept: dict[int, list[CheckpointRow]] = {}
        saved = [each for n in numbers for each in experiment.checkpoints(n)] if few else experiment.checkpoints()
        for each in saved:
            kept.setdefault(each.trial, []).append(each)
        return [
            result_of(
                row, at_best.get(row.trial), self._kept(row, kept.get(row.trial, ())), folder=self._folder(row.trial)
            )
            for row in rows
        ]

    def _kept(self, row: TrialRow, kept: Iterable[CheckpointRow]) -> list[Checkpoint]:
        origin = Origin(self.name, self._trainable, from_json(row.config, Unavailable))
        return [Checkpoint(row.trial, each.step, self._located(each.uri), each.bytes, origin=origin) for each in kept]

    def _folder(self, trial: int) -> str:
        """Return the trial's own folder: beside the log, or, for a database, below the folder of the driver."""
        base = Path("tune_results" if "://" in self.storage else self.storage)
        return folder_of(str(base.expanduser().absolute() / self.name / "trials"), trial)

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

    def dataframe(self, reports: bool = False, *, scope: Scope = "best") -> pd.DataFrame:
        """Return one row per trial, or one per report.

        Configs are in columns such as "config/lr", metrics in "metrics/loss": those of a trial's best report, with
        `scope` "last" those of its last, with `reports` those of each. Times are datetimes in UTC, durations seconds;
        whole numbers stay whole where some are missing. Where configs are repeated, each trial also has the
        "config_rank", "config_mean", "config_spread" and "config_count" of its config; those of the best come first.
        """
        if scope not in ("best", "last"):
            raise SpecError(f"scope: got {scope!r}; allowed: best, last")
        if reports:
            with self._open() as experiment:
                rows = [
                    {"trial": r.trial, "step": r.step, "time": moment(r.time), **flatten(r.metrics, "metrics")}
                    for r in experiment.reports()
                ]
            return frame_of(rows, ("trial", "step", "time"))
        configs = self.configs(scope) if self.replicates > 1 and len(self.metrics) == 1 else None
        trials = self.trials() if configs is None else [trial for each in configs for trial in each.trials]
        if scope == "last":
            trials = [replace(trial, metrics=trial.last) for trial in trials]
        if configs is None:
            return frame_of([row_of(trial) for trial in trials], row_columns())
        ranks = [
            columns for rank, each in enumerate(configs, 1) for columns in [rank_of(rank, each)] * len(each.trials)
        ]
        rows = [{**row_of(trial), **rank} for trial, rank in zip(trials, ranks, strict=True)]
        return frame_of(rows, (*row_columns(), *ranks[0]) if ranks else row_columns())

    @property
    def plot(self) -> Any:
        """The figures: `results.plot.curves(top=5)`; `results.plot()` says which there are. Needs the extra `plots`."""
        # By its name, for figures are made of results: neither is loaded with the other.
        return importlib.import_module("tune_platform.plots.notebook").Plots(self)

    def _repr_html_(self) -> str:
        from tune_platform.results.html import results_html

        return results_html(self)

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
            names = self.metric_names()
            if metric not in names:
                raise SpecError(f"no metric {metric!r} was reported{did_you_mean(metric, names)}: {', '.join(names)}")
            text = f"metric {metric!r} was not optimised here"
            raise SpecError(f"{text}: say with mode whether less (min) or more (max) of it is better")
        return metric, mode or known[metric]

    def _best_values(self, metric: str, mode: str) -> list[TrialResult]:
        best: dict[int, tuple[float, int, Mapping[str, Any]]] = {}
        sign = -1.0 if mode == "max" else 1.0
        with self._open() as experiment:
            for report in experiment.reports():
                value = finite(report.metrics.get(metric))
                old = best.get(report.trial)
                if value is not None and (old is None or sign * value < sign * old[0]):
                    best[report.trial] = value, report.step, report.metrics
        found = []
        for trial in self.trials():
            if trial.number in best:
                value, step, metrics = best[trial.number]
                found.append(replace(trial, best=value, best_step=step, metrics=metrics))
        return found

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
        names = sorted({name for trial in trials for name in trial.last})
        return text + (f"\n  reported were: {', '.join(names)}{did_you_mean(metric, names)}" if names else "")
