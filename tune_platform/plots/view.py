"""`View`: an immutable, columnar picture of one experiment, as of one row of its log.

    view = View.of("digits")
    later = view.newer()       # reads only what the log has got since

Everything that draws is a function of views; only this file and `reading` open the store.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tune_platform.plots import reading
from tune_platform.plots.columns import KINDS, Floats, Log, Objects, Reports, Trials, exchanged, join, take
from tune_platform.plots.space import Cell, Dimension, read_space
from tune_platform.results import Results, locate
from tune_platform.results.lineage import Lineage
from tune_platform.store.reader import ExperimentReader
from tune_platform.store.records import ExperimentRow
from tune_platform.store.sql import open_store

LIMIT = 1_000_000
"""So many reports are held at most; of a longer experiment every second, third ... step of each trial."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One experiment as of log row `revision`. `metrics` and `modes` are those of the search, the first one ranks.

    `status` and `reason` are the experiment's own; `clones` its family (PBT), None without clones.
    """

    name: str
    storage: str
    spec: Mapping[str, Any]
    metrics: tuple[str, ...]
    modes: tuple[str, ...]
    status: str
    reason: str
    created: float
    heartbeat: float
    revision: int
    trials: Trials
    reports: Reports
    log: Log
    space: Mapping[str, Dimension]
    family: Lineage | None = None
    limit: int = field(default=LIMIT, repr=False)

    @classmethod
    def of(cls, source: Results | str | Path, *, storage: str | Path | None = None, limit: int = LIMIT) -> View:
        """Return the picture of an experiment now: of its results, its name, or the path of its folder.

        `limit` bounds the reports that are held. Raises ExperimentError where there is no such experiment.
        """
        name, where = (source.name, source.storage) if isinstance(source, Results) else locate(source, storage)
        with open_store(where) as store, store.open(str(name), readonly=True) as reader:
            revision = reader.last_seq()
            row = reader.row()
            log = reading.read_log(reader.log_rows(KINDS, 0, revision))
            trials = reading.read_trials(reader.trial_chunks(), log, _now(row, log))
            total = int(trials.step.sum())
            stride = max(1, -(-total // limit))
            reports = with_last(reading.read_reports(reader, stride, until=revision), trials)
            return cls(
                name=reader.name,
                storage=str(where),
                **_objective(reader.spec),
                **_row(row),
                revision=revision,
                trials=trials,
                reports=reports,
                log=log,
                space=read_space(reader.spec.get("space")),
                family=_family(reader, log),
                limit=limit,
            )

    def newer(self) -> View:
        """Return the picture as of now; itself where nothing has changed.

        Read is what the log has got since, and the trials that it tells of.
        """
        with open_store(self.storage) as store, store.open(self.name, readonly=True) as reader:
            revision, row = reader.last_seq(), reader.row()
            same = (row.status, row.reason) == (self.status, self.reason)
            if revision == self.revision:
                return self if same else replace(self, **_row(row))
            if revision < self.revision:  # another experiment of the same name, or a converted log
                return View.of(self.name, storage=self.storage, limit=self.limit)
            more = reading.read_log(reader.log_rows(KINDS, self.revision, revision))
            log = join(self.log, more)
            # A new driver changes trials without a row on each.
            whole = ((more.trial < 0) & (more.kind != "capacity")).any()
            changed = None if whole else reader.touched(self.revision, revision)
            came = reading.read_reports(reader, self.reports.stride, self.revision, revision)
            if changed is None:
                trials = reading.read_trials(reader.trial_chunks(), log, _now(row, log))
                reports = with_last(_sorted(join(self.reports, came)), trials)
            else:
                fresh = reading.read_trials([reader.trials_of(changed)], more, _now(row, log), self.trials)
                trials, reports = exchanged(self.trials, fresh, "number"), _followed(self.reports, came, fresh)
            family = _family(reader, log) if (more.verdict == "clone").any() or self.family is not None else None
            view = replace(self, **_row(row), revision=revision, trials=trials, reports=reports, log=log, family=family)
            return view if len(reports) < 2 * self.limit else View.of(self.name, storage=self.storage, limit=self.limit)

    # ------------------------------------------------------------------------------- what all figures ask

    @property
    def metric(self) -> str:
        """The metric that ranks, empty where the spec names none."""
        return self.metrics[0] if self.metrics else ""

    @property
    def mode(self) -> str:
        """Whether less or more of it is better: min or max."""
        return self.modes[0] if self.modes else "min"

    @property
    def sign(self) -> float:
        """1.0 where less is better, -1.0 where more is: `sign * value` is to be small."""
        return -1.0 if self.mode == "max" else 1.0

    @property
    def running(self) -> bool:
        """Whether a driver is at it."""
        return self.status == "running"

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many trials are in each state."""
        return dict(Counter(self.trials.state.tolist()))

    @cached_property
    def values(self) -> Floats:
        """The value of each trial that counts: its best finite one, NaN where it has none."""
        return np.where(np.isfinite(self.trials.best), self.trials.best, np.nan)

    @cached_property
    def ranking(self) -> list[int]:
        """Numbers of the trials that have a value, best first; equal ones by number."""
        there = np.flatnonzero(np.isfinite(self.values))
        order = np.lexsort((self.trials.number[there], self.sign * self.values[there]))
        numbers: list[int] = self.trials.number[there[order]].tolist()
        return numbers

    @property
    def best(self) -> int | None:
        """The number of the best trial."""
        return self.ranking[0] if self.ranking else None

    def objective(self, place: int) -> Floats:
        """Return the values of objective `place`: of one the best ones, of several those of the last reports."""
        if len(self.metrics) <= 1:
            return self.values
        found = self.trials.last.get(self.metrics[place])
        return np.full(len(self.trials), np.nan) if found is None else np.where(np.isfinite(found), found, np.nan)

    @cached_property
    def varied(self) -> list[str]:
        """The parameters that tell trials apart: those of the space first, then others with more than one value."""
        declared = [name for name in self.space if name in self.trials.parameters]
        return declared + [
            name
            for name, column in self.trials.parameters.items()
            if name not in self.space and len(set(map(_key, column.tolist()))) > 1
        ]

    @cached_property
    def metric_names(self) -> list[str]:
        """The metrics of the search, then all others that were reported."""
        return list(dict.fromkeys((*self.metrics, *sorted(self.reports.metrics), *sorted(self.trials.last))))

    def parameter(self, name: str) -> Objects:
        """Return a parameter's column; None where a trial does not have it."""
        found = self.trials.parameters.get(name)
        return np.full(len(self.trials), None, object) if found is None else found

    def whole(self, trials: Sequence[int], known: dict[int, Reports] | None = None) -> View:
        """Return the view with all reports of these trials, of which a long experiment holds only some.

        `known`: what this call found for an earlier picture; only what came since is read, and noted there.
        """
        if self.reports.stride == 1 or not len(trials):
            return self
        found = {}
        with open_store(self.storage) as store, store.open(self.name, readonly=True) as reader:
            for each in sorted(set(trials)):
                at = self.trials.place(each)
                # A trial that went on from a checkpoint may have reported a step twice.
                straight = self.trials.attempt[at] <= 1 and self.trials.parent[at] < 0
                had = known.get(each) if known is not None and straight else None
                above = int(had.step[-1]) if had is not None and len(had) else 0
                if had is None or above < self.trials.step[at]:
                    came = reading.read_curve(reader, each, self.revision, self.reports.stride, above)
                    had = came if had is None else join(had, came)
                found[each] = had
        if known is not None:
            known.clear()
            known.update(found)
        return replace(self, reports=exchanged(self.reports, join(*found.values()), "trial"))

    def curve(self, trial: int, metric: str | None = None) -> tuple[np.ndarray[Any, Any], Floats]:
        """Return the steps and values of one trial, in order, as far as they are held here."""
        rows = self.reports.of(trial)
        return self.reports.step[rows], self.reports.column(metric or self.metric)[rows]


# ------------------------------------------------------------------------------------------ helpers


def _key(value: Cell) -> tuple[str, Cell]:
    return type(value).__name__, value  # "1" and 1 are two values


def _objective(spec: Mapping[str, Any]) -> dict[str, Any]:
    objective = spec.get("objective", ())
    each = [objective] if isinstance(objective, Mapping) else list(objective or ())
    return {
        "spec": spec,
        "metrics": tuple(str(one["metric"]) for one in each),
        "modes": tuple(str(one["mode"]) for one in each),
    }


def _row(row: ExperimentRow) -> dict[str, Any]:
    return {"status": row.status, "reason": row.reason, "created": row.created, "heartbeat": row.heartbeat}


def _now(row: ExperimentRow, log: Log) -> float:
    """Until when trials without an end have run."""
    if row.status == "running":
        return max(time.time(), row.heartbeat) if time.time() - row.heartbeat < 3600 else row.heartbeat
    return max(row.heartbeat, float(log.time[-1]) if len(log) else 0.0)


def _family(reader: ExperimentReader, log: Log) -> Lineage | None:
    if not (log.verdict == "clone").any():
        return None
    return Lineage(row for row, _ in reader.read_log(reports=False, damaged=reader.leave_out))


def _sorted(reports: Reports) -> Reports:
    found: Reports = take(reports, np.lexsort((reports.step, reports.trial)))
    return found


def _followed(reports: Reports, came: Reports, fresh: Trials) -> Reports:
    """Return the reports with those that came, which are of the trials in `fresh`: all others stay where they are."""
    mine = take(reports, np.isin(reports.trial, np.union1d(fresh.number, came.trial)))
    found: Reports = exchanged(reports, with_last(_sorted(join(mine, came)), fresh), "trial")
    return found


def with_last(reports: Reports, trials: Trials) -> Reports:
    """Add the last report of each trial where the stride has left it out, from its row; drop former last ones."""
    if reports.stride == 1:
        return reports
    kept = (reports.step % reports.stride == 0) | (reports.step == 1)
    reports = take(reports, kept)
    missing = np.flatnonzero((trials.step % reports.stride != 0) & (trials.step > 1))
    last = Reports(
        trial=trials.number[missing],
        step=trials.step[missing],
        time=trials.ended[missing],
        metrics={name: column[missing] for name, column in trials.last.items()},
        stride=reports.stride,
    )
    return _sorted(join(reports, last))
