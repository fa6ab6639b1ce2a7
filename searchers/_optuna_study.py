"""What an outcome is to Optuna, and the study in memory that it is kept in."""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from sortedcontainers import SortedList

from tune_platform.protocol.searcher import Outcome

Params = tuple[dict[str, Any], dict[str, BaseDistribution]]  # the values as Optuna sees them, and their distributions


@dataclass(frozen=True, slots=True)
class Judged:
    """An outcome as Optuna sees it: a state, the values, and the intermediate values by step."""

    state: TrialState
    values: list[float] | None = None
    steps: Mapping[int, float] | None = None


def judge(outcome: Outcome, objectives: int) -> Judged:
    """Return what an outcome is to Optuna.

    A trial that was stopped or stands paused is pruned, with its value at each rung: Optuna's TPE ranks pruned trials
    by how far they came, and then by the value there. Optuna prunes nothing where there are several objectives.
    """
    if outcome.worst:  # pruned without a value is the worst to Optuna, wherever the others were stopped
        return Judged(TrialState.PRUNED)
    values = outcome.values if objectives > 1 else (outcome.value,)
    good = [float(value) for value in values if value is not None and math.isfinite(value)]
    if outcome.status == "failed" or len(good) != objectives:
        return Judged(TrialState.FAIL)
    if objectives > 1:
        return Judged(TrialState.COMPLETE, good)
    steps = {step_of(resource): float(value) for resource, value in outcome.rungs if math.isfinite(value)}
    steps = steps or {step_of(outcome.resource or outcome.step): good[0]}
    if outcome.status in ("stopped", "paused", "running"):
        return Judged(TrialState.PRUNED, [steps[max(steps)]], steps)
    return Judged(TrialState.COMPLETE, good, steps)


def step_of(resource: float) -> int:
    """Return a whole number for Optuna's steps that orders as resources do, fractions of an epoch included.

    It is the bits of the float, read as a whole number: exact, and the same whatever else the study holds.
    """
    bits: int = struct.unpack("<q", struct.pack("<d", resource))[0]
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def frozen_trial(judged: Judged, params: Params = ({}, {}), attrs: Mapping[str, Any] | None = None) -> FrozenTrial:
    """Return a trial to `Storage.add`. Its parameters are taken as they are."""
    now = datetime.now()
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=judged.state,
        value=None,
        values=judged.values,
        datetime_start=now,
        datetime_complete=now if judged.state.is_finished() else None,
        params=params[0],
        distributions=params[1],
        user_attrs={},
        system_attrs=dict(attrs or {}),
        intermediate_values=dict(judged.steps or {}),
    )


def rank(trial: FrozenTrial, sign: int) -> tuple[float, ...]:
    """Return what orders finished trials as Optuna's TPE does, the best first; `sign` is -1 for values to maximise."""
    if trial.state is TrialState.COMPLETE:
        return (0, 0, sign * (trial.value or 0.0), trial.number)
    if not (steps := trial.intermediate_values):
        return (2, 0, 0, trial.number)
    last = max(steps)
    return (1, -last, sign * steps[last], trial.number)


class Storage(InMemoryStorage):
    """A study in memory whose paused trials look as pruned ones do, while they still run and can be told of again.

    Trials are put in as they are: Optuna's own way copies each deeply, which is most of what a long past takes.
    """

    def __init__(self, most: int | None = None, sign: int = 1, *, newest: int = 0, pruned: bool = True) -> None:
        """`most`: finished trials that are shown at most, None for all; `sign` as in `rank`.

        `newest` of these are the newest. `pruned` False: pruned ones do not count, for the sampler ignores them.
        """
        super().__init__()
        self._newest, self._pruned = newest, pruned
        self._numbers: SortedList = SortedList()  # of the finished trials that count
        self.paused: dict[int, FrozenTrial] = {}  # by their numbers in the study
        self._most, self._sign = most, sign
        self._ranks: dict[int, tuple[float, ...]] = {}
        self._ranked: SortedList = SortedList()

    def pause(self, trial: FrozenTrial) -> None:
        """Show a trial that runs as this one."""
        self.paused[trial.number] = trial
        self._rank(trial)

    def _set_trial(self, trial_id: int, trial: FrozenTrial) -> None:
        super()._set_trial(trial_id, trial)
        self._rank(self.paused.get(trial.number, trial))

    def _rank(self, trial: FrozenTrial) -> None:
        if self._most is None:
            return
        if (before := self._ranks.pop(trial.number, None)) is not None:
            self._ranked.remove(before)
            self._numbers.remove(trial.number)
        if trial.state is TrialState.COMPLETE or (trial.state is TrialState.PRUNED and self._pruned):
            self._ranks[trial.number] = now = rank(trial, self._sign)
            self._ranked.add(now)
            self._numbers.add(trial.number)

    def _picked(self, most: int) -> set[int]:
        """Return the numbers of the best quarter of `most`, the newest, and an even choice over the ranks of others.

        TPE's good ones are 25 at most, so they are the same as if it saw all.
        """
        first = most // 4
        wanted, rest = most - first - self._newest, len(self._ranked) - first
        places = [*range(first), *(first + index * (rest - 1) // (wanted - 1) for index in range(wanted))]
        found = {int(self._ranked[place][-1]) for place in places}
        return found.union(self._numbers[-self._newest :]) if self._newest else found

    def add(self, study_id: int, trial: FrozenTrial) -> int:
        """Take a trial over as the study's next; return its number there."""
        with self._lock:
            trial._trial_id = self.create_new_trial(study_id)
            trial.number = self.get_trial_number_from_id(trial._trial_id)
            self.put(trial)
            self._update_cache(trial._trial_id, study_id)
            return trial.number

    def put(self, trial: FrozenTrial) -> None:
        """Have a trial take the place of the one that has its number."""
        with self._lock:
            self._set_trial(trial._trial_id, trial)

    def get(self, study_id: int, number: int) -> FrozenTrial:
        """Return a trial by its number in the study; it must not be changed."""
        return self.get_trial(self.get_trial_id_from_study_id_trial_number(study_id, number))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in the order of their numbers."""
        if states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        shown = super().get_all_trials(study_id, deepcopy=False)
        if self._most is not None and len(self._ranked) > self._most:
            picked = self._picked(self._most)
            shown = [t for t in shown if t._number in picked or t._number not in self._ranks]
        shown = [self.paused.get(trial._number, trial) for trial in shown] if self.paused else shown
        found = [trial for trial in shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found
