"""Which checkpoints are needed: by the policy, by a trial that goes on from one, or by a clone of it."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from tune_platform.engine.retention import retention
from tune_platform.engine.trial import Kept, Trial
from tune_platform.protocol.reports import CheckpointRef


class Shelf:
    """Counts the trials that hold each checkpoint; one may go when its last holder lets go of it."""

    def __init__(self, *, keep_last: int | None, keep_best: int | None, mode: str) -> None:
        self._keep_last, self._keep_best = keep_last, keep_best
        self._mode: Literal["min", "max"] = "max" if mode == "max" else "min"
        self._holders: Counter[str] = Counter()

    def put(self, trial: Trial, kept: Kept) -> list[CheckpointRef]:
        """Give a trial a newer checkpoint; return those that may now be deleted."""
        gone = [entry for entry in trial.checkpoints if entry.step == kept.step]  # it is replaced
        self._holders[kept.ref.uri] += 1
        entries = [(entry.step, entry.value) for entry in trial.checkpoints if entry.step != kept.step]
        entries.append((kept.step, kept.value))
        drop = retention(entries, keep_last=self._keep_last, keep_best=self._keep_best, mode=self._mode)
        gone += [entry for entry in trial.checkpoints if entry.step in drop]
        trial.checkpoints.append(kept)
        return self.take(trial, gone)

    def take(self, trial: Trial, kept: list[Kept]) -> list[CheckpointRef]:
        """Let a trial go of checkpoints; return those that no trial holds any more."""
        unused = []
        for entry in kept:
            trial.checkpoints.remove(entry)
            self._holders[entry.ref.uri] -= 1
            if self._holders[entry.ref.uri] == 0:
                del self._holders[entry.ref.uri]
                unused.append(entry.ref)
        return unused

    def leave(self, trial: Trial) -> None:
        """Forget an ended trial, whose checkpoints stay; a count remains only where a clone holds one of them too."""
        for entry in trial.checkpoints:
            if self._holders[entry.ref.uri] == 1:
                del self._holders[entry.ref.uri]
