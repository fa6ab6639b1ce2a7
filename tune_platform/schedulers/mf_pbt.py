"""MF-PBT: sub-populations that evolve at several frequencies, and migration between them (Doulazmi et al., 2025).

The population is split into sub-populations of equal size, trial n into number n mod M. All pause every `interval`;
then sub-population k evolves if the round is a multiple of `frequencies[k]`. Its members are ranked among themselves:
    exploit    the lowest quantile takes weights and config of one of the highest, and the config is explored, as in PBT
    migration  the quantile above the lowest (B3 of the paper) takes the weights of the best members of the other
               sub-populations, each of another, where these are better. Asymmetric: from a slower sub-population
               the config comes along; from a faster one only the weights do, with the config of the best at home.
So what is greedy spreads as weights, never as hyperparameters of the slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Verdict
from tune_platform.schedulers.pbt import PBT


class MFPBT(PBT):
    """Population based training with several frequencies; see `PBT` for the other options.

    frequencies: in how many intervals each sub-population evolves once, rising from 1 on. Raises SpecError.
    """

    name = "mf_pbt"

    def __init__(
        self,
        *,
        interval: float,
        frequencies: Sequence[int] = (1, 10, 25, 50),
        resource: str = "step",
        mutations: Mapping[str, Any] | None = None,
        quantile: float = 0.25,
        resample: float = 0.25,
        factors: Sequence[float] = (1.2, 0.8),
        burn_in: float = 0,
        max: float | None = None,
    ) -> None:
        whole = isinstance(frequencies, (list, tuple)) and all(type(f) is int and f > 0 for f in frequencies)
        if not whole or len(frequencies) < 2 or list(frequencies) != sorted(set(frequencies)):
            raise SpecError(
                f"mf_pbt: frequencies must be two or more whole numbers that rise, such as [1, 10, 25, 50] (a "
                f"sub-population evolves every so many intervals), got {frequencies!r}"
            )
        self.frequencies = tuple(frequencies)
        super().__init__(
            interval=interval, resource=resource, mutations=mutations, quantile=quantile, resample=resample,
            factors=factors, burn_in=burn_in, synchronous=True, max=max,
        )  # fmt: skip

    def home(self, number: int) -> int:
        """Return the sub-population of a trial."""
        return number % len(self.frequencies)

    def outline(self, trials: int) -> str:
        """Say what can be known before anything runs: how large the sub-populations are, and when each evolves."""
        sizes = [len(range(home, trials, len(self.frequencies))) for home in range(len(self.frequencies))]
        each = ", ".join(
            f"{size} every {frequency * self.interval:g} {self.resource}s"
            for size, frequency in zip(sizes, self.frequencies, strict=True)
        )
        return f"sub-populations that evolve: {each}; all train to the end, so nothing is saved"

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        spec = {key: value for key, value in super().to_spec().items() if key not in ("selection", "synchronous")}
        return {**spec, "frequencies": list(self.frequencies)}

    def _judge(self, members: Sequence[int]) -> list[Decision]:
        verdicts: dict[int, Verdict] = {}
        for home, frequency in enumerate(self.frequencies):
            ranked = sorted((n for n in members if self.home(n) == home), key=lambda n: (self._scores[n], n))
            if ranked and self._generation % frequency == 0:
                verdicts.update(self._evolve(home, ranked, members))
        decisions = []
        for number in members:
            at = self._reached[number]
            reason = f"generation {self._generation}: sub-population {self.home(number)} goes on"
            verdict = verdicts.get(number) or Continue(until=self._next(at), save=True, reason=reason)
            decisions.append(Decision(number, verdict))
        return decisions

    def _evolve(self, home: int, ranked: Sequence[int], members: Sequence[int]) -> dict[int, Verdict]:
        """Return the clones of one sub-population."""
        size = math.floor(len(ranked) * self.quantile + 1e-9)
        found: dict[int, Verdict] = {}
        for number in ranked:
            place, source = self._exploit(number, ranked)
            if source is not None:
                where = f"generation {self._generation}, sub-population {home}: {place}"
                found[number] = self._clone(number, source, where)
        if not size or self._reached[ranked[-1]] < self.burn_in:
            return found
        abroad = sorted((n for n in members if self.home(n) != home), key=lambda n: (self._scores[n], n))
        for number in ranked[-2 * size : -size]:
            if not abroad or self._scores[abroad[0]] >= self._scores[number]:
                break
            found[number] = self._migrate(number, abroad.pop(0), ranked)
        return found

    def _migrate(self, number: int, migrant: int, ranked: Sequence[int]) -> Clone:
        slower = self.frequencies[self.home(migrant)] > self.frequencies[self.home(number)]
        config = self._configs[migrant if slower else ranked[0]]
        brought = "with its config" if slower else f"with the config of trial {ranked[0]}, its own best"
        rank = f"rank {ranked.index(number) + 1}/{len(ranked)}"
        return Clone(
            source=migrant,
            config=config,
            until=self._next(self._reached[number]),
            save=True,
            reason=(
                f"cloned from trial {migrant} at {self.resource} {self._evaluated[migrant]:g} (generation "
                f"{self._generation}, sub-population {self.home(number)}: {rank}, migration from "
                f"{self.home(migrant)}, {brought})"
            ),
        )
