"""Which checkpoints are needed: by the policy, by a trial that goes on from one, or by a clone of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from tune_platform.engine.retention import retention
from tune_platform.engine.trial import Kept, Trial
from tune_platform.protocol.reports import CheckpointRef


class Shelf:
    """Counts the trials that hold each checkpoint; one may go when its last holder lets go of it."""

    def __init__(self, *, keep_last: int | None, keep_best: int | None, mode: str) -> None:
        self._keep_last, self._keep_best = keep_last, keep_best
        self._mode: Literal["min", "max"] = "max" if mode == "max" else "min"
        self.holders: Counter[str] = Counter()

    def put(self, trial: Trial, kept: Kept) -> None:
        """Give a trial a newer checkpoint; one that it holds already (of a clone before, or its own) is held once."""
        for entry in [entry for entry in trial.checkpoints if entry.ref.uri == kept.ref.uri]:
            trial.checkpoints.remove(entry)
            self.holders[entry.ref.uri] -= 1
            kept = replace(kept, value=entry.value) if entry.step == kept.step and kept.value is None else kept
        self.holders[kept.ref.uri] += 1
        trial.checkpoints.append(kept)

    def surplus(self, trial: Trial) -> list[CheckpointRef]:
        """Return the checkpoints that the trial holds and no longer needs. Where all are kept, that costs O(1)."""
        kept = trial.checkpoints
        replaced = [kept[-2]] if len(kept) > 1 and kept[-2].step == kept[-1].step else []
        if self._keep_last is None and self._keep_best is None:
            return [entry.ref for entry in replaced]
        entries = [(entry.step, entry.value) for entry in kept if entry not in replaced]
        drop = retention(entries, keep_last=self._keep_last, keep_best=self._keep_best, mode=self._mode)
        return [entry.ref for entry in kept if entry.step in drop or entry in replaced]

    def take(self, trial: Trial, uris: Collection[str]) -> list[CheckpointRef]:
        """Let a trial go of checkpoints; return those that no trial holds any more."""
        unused = []
        for entry in [entry for entry in trial.checkpoints if entry.ref.uri in uris]:
            trial.checkpoints.remove(entry)
            self.holders[entry.ref.uri] -= 1
            if self.holders[entry.ref.uri] == 0:
                del self.holders[entry.ref.uri]
                unused.append(entry.ref)
        return unused

    def leave(self, trial: Trial) -> None:
        """Forget an ended trial, whose checkpoints stay; a count remains only where a clone holds one of them too."""
        for entry in trial.checkpoints:
            if self.holders[entry.ref.uri] == 1:
                del self.holders[entry.ref.uri]
