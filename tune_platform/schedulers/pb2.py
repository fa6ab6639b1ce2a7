"""PB2: population based bandits (Parker-Holder et al., NeurIPS 2020, algorithms 1 and 2).

PBT whose explore step is a bandit: continuous hyperparameters are chosen by a Gaussian process over what each interval
has gained, so that few members suffice. An observation is the time t at the start of an interval, the hyperparameters x
(scaled to [0, 1], logarithms where the parameter has them), and the gain y, the change of the metric over the interval.
    kernel      k((t, x), (t', x')) = exp(-|x - x'|^2 / (2 l^2)) * (1 - e)^(|t - t'| / 2): old observations fade
    next x      the maximum of mean(x) + sqrt(beta_t) std(x), with beta_t = c1 + max(0, log(c2 n)), c1 = 0.2, c2 = 0.4
    batches     the deviation is that of a model that knows where the other members train now (their gain does not
                matter for it), so that members are not sent to the same place
l, e and the noise are those of the highest marginal likelihood on a grid. All other parameters are perturbed, as in
PBT.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tune_platform.errors import SpecError
from tune_platform.protocol.configs import from_json, to_json
from tune_platform.protocol.reports import Config
from tune_platform.protocol.scheduler import TrialView
from tune_platform.protocol.seeds import rng
from tune_platform.protocol.verdicts import Clone, Decisions
from tune_platform.schedulers.pbt import PBT
from tune_platform.space import Space

Floats = npt.NDArray[np.float64]

#: Observations that the model is fitted to: the newest.
_NEWEST = 64
_C1, _C2 = 0.2, 0.4
_LENGTHS, _FADES, _NOISES = (0.1, 0.25, 0.6, 1.5), (0.001, 0.05, 0.3), (0.05,)
_CANDIDATES = 500


class PB2(PBT):
    """Population based bandits; see `PBT` for the options. Needs at least one continuous parameter that may change."""

    name = "pb2"

    def __init__(
        self,
        *,
        interval: float,
        resource: str = "step",
        mutations: Mapping[str, Any] | None = None,
        quantile: float = 0.25,
        resample: float = 0.25,
        factors: Sequence[float] = (1.2, 0.8),
        burn_in: float = 0,
        synchronous: bool = False,
        max: float | None = None,
    ) -> None:
        super().__init__(
            interval=interval, resource=resource, mutations=mutations, quantile=quantile, resample=resample,
            factors=factors, burn_in=burn_in, synchronous=synchronous, max=max,
        )  # fmt: skip

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start without a population and without observations."""
        super().setup(metric=metric, mode=mode, seed=seed)
        self._seen: deque[tuple[float, tuple[float, ...], float]] = deque(maxlen=_NEWEST)  # (t, x, gain)
        #: Of clones that have not reported since: their config, and the loss of the weights that they took over.
        self._taken: dict[int, tuple[Config, float]] = {}

    def prepare(self, space: Space, metrics: Sequence[str], modes: Sequence[str]) -> None:
        """Take the search space. Raises SpecError where the model would have nothing to choose."""
        super().prepare(space, metrics, modes)
        if not space.define_by_run and not self._explorer.has_continuous():
            raise SpecError("pb2: no parameter that may change is a number of a range: use pbt")

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        return {key: value for key, value in super().to_spec().items() if key != "selection"}

    def state(self) -> Mapping[str, Any]:
        """Return the population and the observations as plain data."""
        taken = [[number, to_json(config), loss] for number, (config, loss) in self._taken.items()]
        return {**super().state(), "seen": list(self._seen), "taken": taken}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        super().load_state(data)
        self._seen.extend((since, tuple(point), gain) for since, point, gain in data["seen"])
        # A snapshot of an earlier version has none: there the loss that was taken over stood in the place of its own.
        self._taken = {number: (from_json(config), loss) for number, config, loss in data.get("taken", ())}

    def on_end(self, trial: TrialView, status: str) -> Decisions:
        """Take a member out of the population."""
        self._taken.pop(trial.number, None)
        return super().on_end(trial, status)

    def _clone(self, number: int, source: int, place: str) -> Clone:
        clone = super()._clone(number, source, place)
        # Its rank stays that of its own last evaluation, so that no other is judged against what it may become.
        self._taken[number] = (dict(clone.config), self._scores[source])
        return clone

    def _observe(self, number: int, since: float, gain: float) -> None:
        config = self._configs[number]
        if (taken := self._taken.pop(number, None)) is not None and taken[0] == config:
            # The jump to the weights of another is no gain of these parameters. Where the clone could not be made (its
            # source had nothing left to copy) the trial has gone on with its own config, from its own loss.
            gain += taken[1] - self._scores[number]
        self._seen.append((since, tuple(self._explorer.unit(config)), gain))

    def _explored(self, number: int, source: int, at: float) -> tuple[Config, list[str]]:
        """Choose the continuous parameters by the model, perturb the others."""
        draw = rng(self._seed, number, f"explore {at:g}")
        continuous = self._explorer.continuous(self._configs[source])
        if not continuous or len(self._seen) < 2:
            return self._explorer.explore(self._configs[source], draw)
        configs = {**self._configs, **{member: taken[0] for member, taken in self._taken.items()}}  # those of this turn
        units = [self._explorer.unit(config) for member, config in configs.items() if member != number]
        others = [unit for unit in units if len(unit) == len(continuous)]
        best = suggest([row for row in self._seen if len(row[1]) == len(continuous)], others, at, len(continuous), draw)
        return self._explorer.explore(self._configs[source], draw, unit=dict(zip(continuous, best, strict=True)))


def suggest(
    seen: Sequence[tuple[float, Sequence[float], float]],
    others: Sequence[Sequence[float]],
    now: float,
    size: int,
    draw: np.random.Generator,
) -> list[float]:
    """Return the point of the unit cube of `size` dimensions with the highest bound; at random without observations.

    seen: rows of (t, x, gain). others: where members train now.
    """
    candidates = draw.random((_CANDIDATES, size))
    if len(seen) < 2:
        return [float(value) for value in candidates[0]]
    times = np.array([row[0] for row in seen])
    # The fade is per tenth of the search until now; a member may be far behind what others have seen.
    start = min(float(times.min()), now)
    tenth = (max(float(times.max()), now) - start) / 10 or 1.0
    times, present = (times - start) / tenth, (now - start) / tenth
    points = np.array([row[1] for row in seen], dtype=float).reshape(len(seen), size)
    gains = np.array([row[2] for row in seen])
    gains = np.clip((gains - gains.mean()) / (gains.std() + 1e-12), -2, 2)
    length, fade, noise = max(
        itertools.product(_LENGTHS, _FADES, _NOISES), key=lambda way: _likelihood(times, points, gains, *way)
    )
    spread = np.array(others, dtype=float).reshape(len(others), size)
    all_points, all_times = np.vstack([points, spread]), np.concatenate([times, np.full(len(spread), present)])
    bound = math.sqrt(_C1 + max(0.0, math.log(_C2 * len(seen))))
    best: Floats = candidates[0]
    for radius in (0.0, 0.1, 0.03):  # anywhere first, then around the best
        if radius:
            candidates = np.clip(best + radius * draw.standard_normal((_CANDIDATES // 4, size)), 0, 1)
            candidates = np.vstack([best, candidates])
        mean, _ = _posterior(times, points, gains, present, candidates, length, fade, noise)
        _, deviation = _posterior(all_times, all_points, None, present, candidates, length, fade, noise)
        best = candidates[int(np.argmax(mean + bound * deviation))]
    return [float(value) for value in best]


def kernel(times: Floats, points: Floats, times2: Floats, points2: Floats, length: float, fade: float) -> Floats:
    """Return the covariances of two sets of observations, (n, m)."""
    squares = ((points[:, None, :] - points2[None, :, :]) ** 2).sum(axis=2)
    ages = np.abs(times[:, None] - times2[None, :])
    found: Floats = np.exp(-squares / (2 * length**2)) * (1 - fade) ** (ages / 2)
    return found


def _likelihood(times: Floats, points: Floats, gains: Floats, length: float, fade: float, noise: float) -> float:
    """The log marginal likelihood, up to a constant."""
    matrix = kernel(times, points, times, points, length, fade) + noise * np.eye(len(times))
    lower = np.linalg.cholesky(matrix)
    solved = np.linalg.solve(lower, gains)
    return float(-0.5 * solved @ solved - np.log(np.diag(lower)).sum())


def _posterior(
    times: Floats,
    points: Floats,
    gains: Floats | None,
    present: float,
    at: Floats,
    length: float,
    fade: float,
    noise: float,
) -> tuple[Floats, Floats]:
    """The mean (zero without gains) and the deviation at some points, at the present time."""
    matrix = kernel(times, points, times, points, length, fade) + noise * np.eye(len(times))
    across = kernel(times, points, np.full(len(at), present), at, length, fade)
    lower = np.linalg.cholesky(matrix)
    half = np.linalg.solve(lower, across)
    deviation = np.sqrt(np.maximum(1.0 - (half**2).sum(axis=0), 0.0))
    mean = half.T @ np.linalg.solve(lower, gains) if gains is not None else np.zeros(len(at))
    return mean, deviation
