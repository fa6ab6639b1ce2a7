"""Configs as rows of numbers, for searchers that fit a model.

A *row* has one number from 0 to 1 for each parameter, on the parameter's own scale, so that a uniform row is a draw
from the space; NaN where the config does not have the parameter. *Features* are what a model is fitted to: numbers as
they are, one column for each value of a category (two categories are as far apart as the ends of a range), and a column
that says whether a conditional parameter is there. A choice whose values are all numbers has an order, so it is a
number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tune_platform.errors import SpecError
from tune_platform.space.core import Space
from tune_platform.space.domains import Categorical, Domain, Float, Int, Normal

Floats = npt.NDArray[np.float64]

_TAIL = 1e-9  # quantiles of a normal distribution are kept so far from 0 and 1
_MANY = 64  # values from which a discrete parameter is taken for continuous


class Encoding:
    """The rows and the features of a space's configs. Raises SpecError for a space that is a function."""

    def __init__(self, space: Space) -> None:
        if space.define_by_run:
            raise SpecError("a space written as a function has no fixed parameters; use tpe or random, or write a dict")
        parameters = space.parameters()
        self.space = space
        self.names = [parameter.name for parameter in parameters]
        self.columns = {name: column for column, name in enumerate(self.names)}
        self.domains = [parameter.domain for parameter in parameters]
        self.optional = np.array([parameter.condition is not None for parameter in parameters], dtype=bool)
        self.orders = [_order(domain) for domain in self.domains]
        #: how many unordered values each parameter has; 0: it is a number
        self.categories = [domain.size or 0 if order is None and isinstance(domain, Categorical) else 0
                           for domain, order in zip(self.domains, self.orders, strict=True)]  # fmt: skip
        sizes = [domain.size for domain in self.domains]
        #: how many values each parameter has; 0: it is as good as continuous
        self.sizes = [size if size is not None and size <= _MANY else 0 for size in sizes]

    def __len__(self) -> int:
        return len(self.names)

    def row(self, config: Mapping[str, Any]) -> Floats:
        """Return the row of a config, (parameters,). Raises SpecError where it is not in the space."""
        return self.row_of(self.space.flatten(config))

    def row_of(self, values: Mapping[str, Any]) -> Floats:
        """Return the row of the parameters' values, by flat name."""
        row = np.full(len(self), np.nan)
        for name, value in values.items():
            column = self.columns[name]
            row[column] = to_unit(self.domains[column], value, self.orders[column])
        return row

    def config(self, row: Floats, fixed: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the config at a row, and its parameters' values by flat name; `fixed` ones have these values.

        A parameter for which the row has no number is in the middle. Constraints are not looked at.
        """
        values: dict[str, Any] = {}

        def pick(name: str, domain: Domain) -> Any:
            column = self.columns[name]
            place = float(row[column])
            if fixed and name in fixed:
                values[name] = fixed[name]
            else:
                values[name] = from_unit(domain, 0.5 if place != place else place, self.orders[column])
            return values[name]

        return self.space.build(pick), values

    def settle(self, rows: Floats, fixed: Mapping[str, Any] | None = None) -> Floats:
        """Return the rows of the configs that rows give, (n, parameters): discrete values in the middle of their share.

        `fixed` parameters have these values; what a config does not have is NaN.
        """
        rows = np.clip(rows, 0.0, 1.0)
        for name, value in (fixed or {}).items():
            column = self.columns[name]
            rows[:, column] = to_unit(self.domains[column], value, self.orders[column])
        for column, (domain, size) in enumerate(zip(self.domains, self.sizes, strict=True)):
            if size:
                known = np.array([to_unit(domain, domain.at(index), self.orders[column]) for index in range(size)])
                known.sort()
                index = np.searchsorted((known[1:] + known[:-1]) / 2, np.nan_to_num(rows[:, column], nan=0.5))
                rows[:, column] = known[index]
        if self.optional.any():
            for row in rows:
                there = self.config(row)[1]
                row[[column for name, column in self.columns.items() if name not in there]] = np.nan
        return rows

    def features(self, rows: Floats) -> Floats:
        """Return the features of rows, (n, features)."""
        columns = []
        for column, count in enumerate(self.categories):
            place = rows[:, column]
            if count:
                index = np.floor(np.clip(np.nan_to_num(place, nan=-1.0), -1, 1 - 1e-12) * count)
                columns += [np.where(index == value, math.sqrt(0.5), 0.0) for value in range(count)]
            else:
                columns.append(np.nan_to_num(place, nan=0.5))
                if self.optional[column]:
                    columns.append(np.where(np.isnan(place), 0.0, 1.0))
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0))


def to_unit(domain: Domain, value: Any, order: tuple[int, ...] | None = None) -> float:
    """Return where a value lies in its domain, from 0 to 1; of finitely many values, the middle of its share.

    `order`: the indices of a choice's values from the least to the greatest.
    """
    match domain:
        case Float():
            low, high, place = _scaled(domain, domain.low, domain.high, value)
            return (place - low) / (high - low) if high > low else 0.5
        case Int(log=True):
            low, high, place = _scaled(domain, domain.low, domain.high + domain.step, value)
            return (place + math.log(value + domain.step) - 2 * low) / (2 * (high - low))
        case Normal():
            return min(max(domain.quantile_of(float(value)), _TAIL), 1 - _TAIL)
    index = domain.index(value)
    return ((order.index(index) if order else index) + 0.5) / (domain.size or 1)


def from_unit(domain: Domain, place: float, order: tuple[int, ...] | None = None) -> Any:
    """Return the value of a domain at a place from 0 to 1: `domain.sample` of a uniform place has the same law."""
    match domain:
        case Float():
            return domain.cast(min(max(_at(domain, domain.low, domain.high, place), domain.low), domain.high))
        case Int(log=True):
            value = math.floor((_at(domain, domain.low, domain.high + domain.step, place) - domain.low) / domain.step)
            return domain.at(min(max(value, 0), domain.size - 1))
        case Normal():
            return domain.at_quantile(min(max(place, _TAIL), 1 - _TAIL))
    size = domain.size or 1
    index = min(max(int(place * size), 0), size - 1)
    return domain.at(order[index] if order else index)


def _order(domain: Domain) -> tuple[int, ...] | None:
    """Return the indices of a choice's values in the order of the numbers that they are; None where they are not."""
    if not isinstance(domain, Categorical) or domain.size < 3:
        return None
    numbers = [value for value in domain.values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < domain.size or len(set(numbers)) < domain.size:
        return None
    return tuple(sorted(range(domain.size), key=partial(_number, domain)))


def _number(domain: Categorical, index: int) -> float:
    return float(domain.values[index])


def _scaled(domain: Float | Int, low: float, high: float, value: Any) -> tuple[float, float, float]:
    return (math.log(low), math.log(high), math.log(value)) if domain.log else (low, high, float(value))


def _at(domain: Float | Int, low: float, high: float, place: float) -> float:
    low, high, _ = _scaled(domain, low, high, low)
    value = low * (1 - place) + high * place
    return math.exp(value) if domain.log else value
