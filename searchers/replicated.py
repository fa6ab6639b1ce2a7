"""Each config of a searcher tried several times, with other seeds, and told as one: `search.duplicates: replicate`.

The searcher inside sees one trial for each config, numbered in their order, and hears of it what its repeats have in
common: their mean at each rung that all of them reached, and that it runs on (paused) until the last of them has ended.
A value at a rung that only the lucky ones reached would be no mean of the config's. Where the searcher has nothing more
to suggest, the configs of the best quarter are tried again, the one with the fewest repeats first.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from sortedcontainers import SortedList

from tune_platform.protocol.searcher import Outcome, PastTrial, Searcher, Suggestion
from tune_platform.space import Space

_GOOD = 4  # of a space that is used up, one config of so many is repeated: the best ones


@dataclass(slots=True)
class _Group:
    """A config, and the trials of it."""

    config: Mapping[str, Any]
    note: Mapping[str, Any] | None  # the inner searcher's; None: it did not suggest the config
    numbers: list[int] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def told(self, times: int | None = None) -> list[Outcome]:
        """Return the outcomes of its (first) trials that are known."""
        return [self.outcomes[number] for number in self.numbers[:times] if number in self.outcomes]


class Replicated:
    """A searcher each of whose configs is tried `times` times, or more where it has no other."""

    lookahead: int | None = 0

    def __init__(self, inner: Searcher, times: int) -> None:
        self.inner, self.times = inner, times
        self.synchronous = inner.synchronous
        self.follows = getattr(inner, "follows", False)

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space, the mode and the seed. SpecError for what the inner searcher refuses."""
        self.inner.setup(space, mode=mode, seed=seed)
        self._sign = 1.0 if mode[0] == "min" else -1.0
        self._groups: list[_Group] = []
        self._at: dict[int, int] = {}  # the group of each trial
        self._by: dict[str, int] = {}  # the group of each config
        self._short: deque[int] = deque()  # groups that lack repeats, oldest first
        self._ended: set[int] = set()  # groups whose end the inner searcher has heard of
        self._means: dict[int, float] = {}
        self._ranked: SortedList = SortedList()  # (loss, group): those with a mean, best first

    @property
    def exhausted(self) -> str:
        """Why there is nothing to repeat either: no config could be suggested at all."""
        return str(getattr(self.inner, "exhausted", ""))

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the config of trial `number`: one that lacks repeats, a new one, or a good one once more."""
        if self._short:
            return self._again(number, self._short[0])
        index = len(self._groups)
        found = self.inner.ask(index)
        if found is not None:
            self._begin(_Group(found.config, found.memo or {}))
            self._join(number, index)
            return Suggestion(found.config, {"config": index, "memo": dict(found.memo or {})})
        return self._again(number, self._worth_repeating()) if self._groups else None

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear of a trial with a config of its own, which is repeated too. SpecError when it is not in the space."""
        index = self._by.get(_key(config))
        if index is None:
            index = len(self._groups)
            self.inner.observe(index, config)
            self._begin(_Group(config, None))
        self._join(number, index)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended, or stands; the inner searcher hears how its config does."""
        index = self._at[number]
        self._note(index, number, outcome)
        if index in self._ended:
            return
        outcome = self._outcome(self._groups[index])
        if outcome.status not in ("paused", "running"):
            self._ended.add(index)
        self.inner.tell(index, outcome)

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Hear the whole past."""
        for trial in past:
            memo = trial.memo or {}
            known = memo["config"] if memo and "memo" not in memo else self._by.get(_key(trial.config))
            if known is None or "memo" in memo:
                known = len(self._groups)
                self._begin(_Group(trial.config, memo.get("memo")))
            self._join(trial.number, known)
            if trial.outcome is not None:
                self._note(known, trial.number, trial.outcome)
        found = []
        for index, group in enumerate(self._groups):
            outcome = self._outcome(group) if group.told(self.times) else None
            if outcome is not None and outcome.status not in ("paused", "running"):
                self._ended.add(index)
            found.append(PastTrial(index, group.config, group.note, outcome))
        self.inner.restore(found)

    def _begin(self, group: _Group) -> None:
        self._by.setdefault(_key(group.config), len(self._groups))
        if self.times > 1:
            self._short.append(len(self._groups))
        self._groups.append(group)

    def _join(self, number: int, index: int) -> None:
        group = self._groups[index]
        group.numbers.append(number)
        self._at[number] = index
        if len(group.numbers) == self.times and index in self._short:
            self._short.remove(index)

    def _again(self, number: int, index: int) -> Suggestion:
        self._join(number, index)
        return Suggestion(dict(self._groups[index].config), {"config": index})

    def _worth_repeating(self) -> int:
        """Return the group, of those with the best means, that has the fewest trials."""
        good = self._ranked[: max(1, math.ceil(len(self._groups) / _GOOD))]
        if not good:  # nothing has a value yet
            return min(range(len(self._groups)), key=lambda index: (len(self._groups[index].numbers), index))
        fewest = min(good, key=lambda entry: (len(self._groups[entry[1]].numbers), entry))
        return int(fewest[1])

    def _note(self, index: int, number: int, outcome: Outcome) -> None:
        group = self._groups[index]
        group.outcomes[number] = outcome
        before = self._means.pop(index, None)
        if before is not None:
            self._ranked.remove((before, index))
        values = [told.value for told in group.told() if told.value is not None and math.isfinite(told.value)]
        if values and not any(told.worst for told in group.told()):
            self._means[index] = mean = self._sign * fmean(values)
            self._ranked.add((mean, index))

    def _outcome(self, group: _Group) -> Outcome:
        """Return what the first `times` trials of a config have in common."""
        told = group.told(self.times)
        open_ = len(told) < self.times or any(each.status in ("paused", "running") for each in told)
        if any(each.worst for each in told):
            return Outcome("paused" if open_ else "stopped", None, min(each.step for each in told), worst=True)
        valued = [each for each in told if each.value is not None and math.isfinite(each.value)]
        valued = [each for each in valued if each.status != "failed"]
        if not valued:
            return Outcome("paused" if open_ else "failed", None, max(each.step for each in told))
        levels = [dict(each.rungs) or {each.resource: each.value or 0.0} for each in valued]
        shared = sorted(set.intersection(*map(set, levels)))
        rungs = [(level, fmean(one[level] for one in levels)) for level in shared]
        value = fmean(each.value or 0.0 for each in valued)
        reached = min(each.resource for each in valued)
        status = "completed" if all(each.status == "completed" for each in valued) else "stopped"
        return Outcome(
            status="paused" if open_ else status,
            value=value,
            step=min(each.step for each in valued),
            values=(value,),
            config=group.config,
            resource=reached,
            rungs=tuple(rungs) or ((reached, value),),
        )


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=repr)
