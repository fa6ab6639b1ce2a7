"""What the user believes, random search, and the best so far, mixed (PriorBand, Mallik et al., NeurIPS 2023).

A share of the suggestions is drawn from the whole space, so that a wrong belief costs little: half by default, as at
the paper's first rung. The others are drawn near the believed values or near the best trial, the incumbent. Which of
the two is decided by how well either explains the trials that are best by now: at the highest resource that eta trials
reached, S = sum_i w_i p(config_i) over the best n / eta of them, 64 at most, with weights that fall from the best on, p
the density of the belief or that around the incumbent. So a good belief is followed, and a bad one is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.searchers._learner import Learner
from tune_platform.searchers._normal import normal_mass
from tune_platform.space import Space
from tune_platform.space.encoding import Floats, to_unit

_TRIES = 20  # draws, until one is allowed
_MOST = 64  # of the best trials, that belief and incumbent are judged by
_CHANGED = 0.5  # the chance of each parameter to be moved away from the incumbent


class PriorBand(Learner):
    """Search by a belief, in NumPy; needs no extra. One metric; a space that is written as a dict.

    `prior`: the believed best value of some or all parameters, by name (`model.lr` for one in a group). `spread`: the
    standard deviation of the belief, as a share of the parameter's range on its own scale; a choice is the believed one
    with the weight 1 / `spread` of each other. `random_fraction` of the suggestions come from the whole space. `eta` is
    the scheduler's. The first suggestion is the belief itself. Raises SpecError on bad values.
    """

    name = "priorband"

    def __init__(
        self, *, prior: Mapping[str, Any], spread: float = 0.25, random_fraction: float = 0.5, eta: float = 3
    ) -> None:
        super().__init__(0.0)  # the share is drawn here, for the first suggestion is none of it
        if not isinstance(prior, Mapping) or not prior:
            raise SpecError(
                f"{self.name}: prior must give the values that you believe in, such as {{lr: 0.01}}, got {prior!r}"
            )
        self.check("spread", spread, 0.001, 1)
        self.check("random_fraction", random_fraction, 0, 1)
        self.check("eta", eta, 1.001, 1000)
        self.prior, self.spread, self.share, self.eta = dict(prior), spread, random_fraction, eta

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which the registry builds it again."""
        options = {"prior": self.prior, "spread": self.spread, "random_fraction": self.share, "eta": self.eta}
        return {"name": self.name, **options}

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space. Raises SpecError, also for a belief in what is not in the space."""
        super().setup(space, mode=mode, seed=seed)
        encoding = self._encoding
        self._belief = np.full(len(encoding), np.nan)
        for name, value in self.prior.items():
            if name not in encoding.columns:
                hint = did_you_mean(name, encoding.columns)
                raise SpecError(
                    f"{self.name}: prior: there is no parameter {name!r}{hint}; there are {', '.join(encoding.columns)}"
                )
            column = encoding.columns[name]
            domain = encoding.domains[column]
            if not domain.contains(value):
                raise SpecError(f"{self.name}: prior: {name}={value!r} is not in {domain}")
            self._belief[column] = to_unit(domain, value, encoding.orders[column])

    def suggest(self, generator: np.random.Generator, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a config near the belief or near the incumbent; None for one of the whole space."""
        first = not self._history.rows
        if not first and generator.random() < self.share:
            return None
        incumbent = None if first else self._incumbent(generator)
        for attempt in range(_TRIES):
            row = generator.random(len(self._encoding))
            if incumbent is not None:
                kept = generator.random(len(row)) >= _CHANGED
                row = np.where(np.isnan(incumbent), row, np.where(kept, incumbent, self._near(incumbent, generator)))
            elif first and not attempt:
                row = np.where(np.isnan(self._belief), row, self._belief)
            else:
                row = np.where(np.isnan(self._belief), row, self._near(self._belief, generator))
            config, _ = self._encoding.config(self._encoding.settle(row[None], fixed)[0], fixed)
            if self.allowed(config):
                return config
        return None

    def _incumbent(self, generator: np.random.Generator) -> Floats | None:
        """Return the row of the best trial, where it is its turn; None where it is that of the belief."""
        ranked = self._history.best(max(2, math.ceil(self.eta)))
        if not ranked:
            return None
        count = min(max(1, int(len(ranked) / self.eta)), _MOST)
        best = np.array([self._history.rows[number] for _, number in ranked[:count]])
        weights = np.arange(len(best), 0, -1.0)
        belief, near = (float(weights @ self._density(center, best)) for center in (self._belief, best[0]))
        return best[0] if generator.random() * (belief + near) >= belief else None

    def _near(self, center: Floats, generator: np.random.Generator) -> Floats:
        """Draw a row near another: numbers from a normal distribution within the range, choices by their weight."""
        row = center + self.spread * generator.standard_normal(len(center))
        for column in range(len(row)):
            while not np.isnan(row[column]) and not 0 <= row[column] <= 1:
                row[column] = center[column] + self.spread * generator.standard_normal()
        for column, size in enumerate(self._encoding.categories):
            if size and not np.isnan(center[column]):
                weights = self._weights(int(center[column] * size), size)
                row[column] = (generator.choice(size, p=weights) + 0.5) / size
        return row

    def _density(self, center: Floats, rows: Floats) -> Floats:
        """Return the density around a center at rows, (rows,): 1 is that of a draw from the whole space."""
        found = np.ones(len(rows))
        for column in np.flatnonzero(~np.isnan(center)):
            here, at = rows[:, column], float(center[column])
            if size := self._encoding.categories[column]:
                weights = self._weights(int(at * size), size) * size
                each = weights[np.clip(np.nan_to_num(here) * size, 0, size - 1).astype(int)]
            else:
                inside = normal_mass((0 - at) / self.spread, (1 - at) / self.spread)
                each = np.exp(-0.5 * ((here - at) / self.spread) ** 2)
                each /= self.spread * math.sqrt(2 * math.pi) * inside
            found *= np.where(np.isnan(here), 1.0, each)
        return found

    def _weights(self, believed: int, size: int) -> Floats:
        """Return the chance of each of a choice's values."""
        weights = np.full(size, self.spread)
        weights[min(believed, size - 1)] = 1.0
        chances: Floats = weights / weights.sum()
        return chances
