"""Asynchronous HyperBand: several brackets of ASHA side by side (Li et al., MLSys 2020, section 3.2).

Bracket s is an ASHA whose first rung lies at min * eta^s: the early-stopping rate s guards against curves that cross.
Trials go to the brackets in the proportions of HyperBand's (Li et al., JMLR 2018, Algorithm 1): bracket s gets
ceil((s_max + 1) / (k + 1) * eta^k) of a round, with k = s_max - s. With one bracket it is ASHA, which is what Ray Tune
means by this name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Verdict
from tune_platform.schedulers._rungs import Forecast, check_resource, forecast
from tune_platform.schedulers.asha import ASHA


class Round:
    """The brackets of one round of trials, evenly mixed: each comes as often as HyperBand's weights say.

    `ratio`: of the greatest to the least resource. A round may be of hundreds of millions of trials (one of
    timesteps, say), so it is worked out only as far as it was asked for.
    """

    def __init__(self, ratio: float, eta: float, brackets: int) -> None:
        s_max = math.floor(math.log(ratio) / math.log(eta) + 1e-9)
        self._weights = [math.ceil((s_max + 1) / (s_max - s + 1) * eta ** (s_max - s) - 1e-9) for s in range(brackets)]
        self._total, self._given = sum(self._weights), [0] * brackets
        self._order: list[int] = []

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, turn: int) -> int:
        """Return the bracket of a trial of the round, counted from 0."""
        while len(self._order) <= turn:
            at = len(self._order) + 1
            late = [weight * at / self._total - count for weight, count in zip(self._weights, self._given, strict=True)]
            chosen = late.index(max(late))
            self._given[chosen] += 1
            self._order.append(chosen)
        return self._order[turn]


class _Bracket(ASHA):
    """One ASHA of several, whose mistakes in options are told under the name that was given."""

    name = "async_hyperband"


class AsyncHyperBand:
    """Asynchronous HyperBand over any reported resource; see `ASHA` for the options.

    `brackets`: how many, from that of the whole range on (1: ASHA). Raises SpecError on bad values.
    """

    def __init__(
        self,
        *,
        resource: str = "step",
        min: float = 1,
        max: float | None = None,
        eta: float = 3,
        brackets: int = 1,
        type: Literal["stopping", "promotion"] = "stopping",
    ) -> None:
        check_resource("async_hyperband", resource)
        first = _Bracket(resource=resource, min=min, max=max, eta=eta, type=type)
        if isinstance(brackets, bool) or not isinstance(brackets, int) or brackets < 1:
            raise SpecError(f"async_hyperband: brackets must be a whole number from 1 on, got {brackets!r}")
        most = 1
        if first.max is not None:
            most = math.floor(math.log(first.max / min) / math.log(eta) + 1e-9) + 1
        elif brackets > 1:
            raise SpecError(f"async_hyperband: {brackets} brackets need a max, the resource at which a trial is done")
        if brackets > most:
            raise SpecError(
                f"async_hyperband: {brackets} brackets do not fit between min {min:g} and max {first.max or min:g} "
                f"with eta {eta:g}: {most} at most"
            )
        self.resource, self.min, self.max, self.eta, self.type = resource, min, first.max, eta, type
        self.brackets = brackets
        self._round = Round(first.max / min, eta, brackets) if first.max is not None and brackets > 1 else None
        self._ashas = [
            _Bracket(resource=resource, min=min * eta**s, max=max, eta=eta, type=type) if s else first
            for s in range(brackets)
        ]
        self.setup(metric="", mode="min", seed=0)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start with empty rungs. The seed is not used: nothing is drawn."""
        for asha in self._ashas:
            asha.setup(metric=metric, mode=mode, seed=seed)

    def bracket(self, number: int) -> int:
        """Return the bracket of a trial: a function of its number."""
        return self._round[number % len(self._round)] if self._round is not None else 0

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the next rung of the trial's bracket."""
        return self._of(trial).until(trial)

    def on_add(self, trial: TrialView) -> None:
        """Nothing to note: it begins at the bottom of its bracket."""

    def on_start(self, trial: TrialView) -> None:
        """Note a trial that was sent on."""
        self._of(trial).on_start(trial)

    def on_report(self, trial: TrialView, report: Report) -> Verdict | None:
        """Judge a trial in its bracket."""
        verdict = self._of(trial).on_report(trial, report)
        if verdict is None or self.brackets == 1:
            return verdict
        return replace(verdict, reason=f"bracket {self.bracket(trial.number)}, {verdict.reason}")

    def forecast(self, trials: int) -> Forecast | None:
        """Return what so many trials come to; None without a `max`."""
        given = Counter(self.bracket(number) for number in range(trials))
        found = [asha.forecast(given[bracket]) for bracket, asha in enumerate(self._ashas)]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        return forecast(self.resource, [[(level, count) for _, level, count in one.rungs] for one in known])

    def choose(self, candidates: Candidates) -> int | None:
        """Promote in the first bracket that has someone to promote; else start the oldest waiting trial."""
        for asha in self._ashas:
            if (number := asha.promotable(candidates)) is not None:
                return number
        trial = next(candidates.waiting(), None)
        return trial.number if trial else None

    def on_end(self, trial: TrialView, status: str) -> None:
        """Keep the record, but promote the trial no more."""
        self._of(trial).on_end(trial, status)

    def on_supply_end(self) -> None:
        """Nothing changes: rungs never wait for anybody."""

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        options = {"resource": self.resource, "min": self.min, "max": self.max, "eta": self.eta}
        return {"name": "async_hyperband", **options, "brackets": self.brackets, "type": self.type}

    def state(self) -> Mapping[str, Any]:
        """Return the rungs of each bracket as plain data."""
        return {"brackets": [asha.state() for asha in self._ashas]}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        # Until it had brackets of its own, this name meant ASHA, whose state a snapshot may hold.
        for asha, saved in zip(self._ashas, data.get("brackets", [data]), strict=True):
            asha.load_state(saved)

    def describe(self) -> Mapping[str, Any]:
        """Return the rungs of each bracket."""
        if self.brackets == 1:
            return self._ashas[0].describe()
        return {"resource": self.resource, "brackets": [asha.describe() for asha in self._ashas]}

    def _of(self, trial: TrialView) -> ASHA:
        return self._ashas[self.bracket(trial.number)]
