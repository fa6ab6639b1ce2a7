"""Who went on from whose checkpoint: the family tree of a population, and the schedule that weights have had.

Both are read from the log: a clone is a verdict with its source, and the checkpoint that it took is the newest that the
source had by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from tune_platform.protocol.configs import Unavailable, from_json
from tune_platform.results.trials import moment
from tune_platform.store.records import LogRow

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """After its report `step` a trial went on from the checkpoint of `source` at `source_step`, with `config`."""

    trial: int
    step: int
    source: int
    source_step: int | None
    config: Config
    reason: str
    time: datetime


class Segment(NamedTuple):
    """Weights were trained by `trial`, with `config`, from its step `first` to `last` (None: to its end)."""

    trial: int
    first: int
    last: int | None
    config: Config


class Lineage:
    """All clones of an experiment, in order, and each trial's first config."""

    def __init__(self, rows: Iterable[LogRow]) -> None:
        self.clones: list[Clone] = []
        self._first: dict[int, Config] = {}
        saved: dict[int, int] = {}  # step of each trial's newest checkpoint
        held: dict[int, int] = {}  # ... that is in memory, and not written yet
        for row in rows:
            if row.kind == "suggested" and row.trial is not None:
                self._first[row.trial] = from_json(row.data["config"], Unavailable)
            for ref in [*row.data.get("saved", ()), row.data.get("checkpoint")]:
                if ref:
                    saved[ref[0]] = ref[1]
            for ref in row.data.get("held", ()):
                held[ref[0]] = ref[1]
            if row.kind == "resumed":
                held.clear()
            elif row.kind == "failed" and row.trial is not None:
                held.pop(row.trial, None)
            if row.kind == "verdict" and row.data["verdict"] == "clone" and row.trial is not None:
                source = row.data["source"]
                clone = Clone(
                    trial=row.trial,
                    step=row.data["step"],
                    source=source,
                    source_step=max((at[source] for at in (saved, held) if source in at), default=None),
                    config=from_json(row.data["config"], Unavailable),
                    reason=row.data.get("reason") or "",
                    time=moment(row.time),
                )
                self.clones.append(clone)
                held.pop(row.trial, None)
                saved[row.trial] = row.data["step"]  # until it saves itself, others would get that of its source

    @property
    def trials(self) -> Sequence[int]:
        """All trials that were suggested."""
        return list(self._first)

    def parent(self, trial: int) -> Clone | None:
        """Return the clone by which a trial came to the weights that it has now; None where they are its own."""
        return self._newest(trial, len(self.clones), None)[1]

    def generation(self, trial: int) -> int:
        """Return how many clones a trial's weights have gone through: 0 where they are its own."""
        return len(self.schedule(trial)) - 1

    def schedule(self, trial: int) -> list[Segment]:
        """Return the segments that led to a trial's weights, oldest first: the last is the trial's own."""
        segments: list[Segment] = []
        last: int | None = None
        before = len(self.clones)
        while True:
            index, clone = self._newest(trial, before, last)
            if clone is None:
                segments.append(Segment(trial, 0, last, self._first.get(trial, {})))
                return segments[::-1]
            segments.append(Segment(trial, clone.step, last, clone.config))
            trial, before, last = clone.source, index, clone.source_step

    def _newest(self, trial: int, before: int, until: int | None) -> tuple[int, Clone | None]:
        """The last clone by which a trial came to its weights at a step (None: at the end)."""
        for index in range(before - 1, -1, -1):
            clone = self.clones[index]
            if clone.trial == trial and (until is None or clone.step <= until):
                return index, clone
        return -1, None
