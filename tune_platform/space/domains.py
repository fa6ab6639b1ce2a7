# ruff: noqa: D102  (the methods are documented on Domain)
"""Domains: the sets that one hyperparameter's values come from, and how each is sampled.

The parameter model is Optuna's (`low, high, log, step`, all bounds inclusive); the functions that build
domains are spelled like Ray Tune's (`randint` excludes its upper bound; `q...` round to multiples of `q`).
Samples are plain Python values, never NumPy scalars.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.space.values import check_bounds, finite, is_number, list_of, plain, same, whole


class Domain:
    """A set of values with a way to sample it. Immutable; equal when the fields are."""

    __slots__ = ()
    kind: ClassVar[str]

    @property
    def size(self) -> int | None:
        """The number of values, or None when there are infinitely many."""
        return None

    def sample(self, rng: np.random.Generator) -> Any:
        """Draw one value."""
        raise NotImplementedError

    def contains(self, value: Any) -> bool:
        """Tell whether `value` is one of the values."""
        raise NotImplementedError

    def cast(self, value: Any) -> Any:
        """Return the domain's own spelling of a value that it contains (2.0 becomes 2 in an Int)."""
        return value

    def at(self, index: int) -> Any:
        """Return value number `index` of a finite domain."""
        raise SpecError(f"{self} has infinitely many values; give it a step or use choice")

    def index(self, value: Any) -> int:
        """Return the number of a value of a finite domain; SpecError when it has no such value."""
        raise SpecError(f"{self} has infinitely many values, so {value!r} has no number in it")

    def grid(self, n: int | None = None) -> list[Any]:
        """Return `n` values spread evenly over the domain's own scale; all of them when `n` is None.

        `grid(1)` is the middle. A finite domain returns at most `size` values, none twice.
        """
        size = self.size
        if size is None:
            if n is None:
                raise SpecError(f"{self} has infinitely many values; give it a step or use choice")
            return [self._quantile(0.5 if n == 1 else i / (n - 1)) for i in range(n)]
        if n is None or n >= size:
            return [self.at(i) for i in range(size)]
        return [self.at((size - 1) // 2 if n == 1 else round(i * (size - 1) / (n - 1))) for i in range(n)]

    def _quantile(self, q: float) -> Any:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, the one that a spec file uses; `space.files` reads it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Float(Domain):
    """Real numbers from `low` to `high`; with `step`, only low, low + step, ... high."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    kind: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        check_bounds("Float", self.low, self.high, self.log, self.step)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        if self.step is not None:
            object.__setattr__(self, "step", float(self.step))

    @property
    def size(self) -> int | None:
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def sample(self, rng: np.random.Generator) -> float:
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = float(rng.uniform(self.low, self.high))
        return self._fit(value)

    def _fit(self, value: float) -> float:
        """Round to the step, as Ray Tune does: the two end points get half a step's share each."""
        if self.step is not None:
            return self.at(round((value - self.low) / self.step))
        return min(max(value, self.low), self.high)  # exp(log(x)) may miss x by one unit in the last place

    def contains(self, value: Any) -> bool:
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        return self.step is None or math.isclose(
            self.at(self._nearest(value)), value, rel_tol=1e-9, abs_tol=1e-9 * self.step
        )

    def cast(self, value: Any) -> float:
        return float(value) if self.step is None else self.at(self._nearest(value))

    def _nearest(self, value: float) -> int:
        assert self.step is not None
        return round((value - self.low) / self.step)

    def at(self, index: int) -> float:
        if self.step is None:
            return float(super(Float, self).at(index))  # raises
        # decimal, so that 0 + 3 * 0.1 is 0.3 and not 0.30000000000000004
        return float(Decimal(repr(self.low)) + index * Decimal(repr(self.step)))

    def index(self, value: Any) -> int:
        if self.step is None:
            return super(Float, self).index(value)  # raises
        if not self.contains(value):
            raise SpecError(f"{value!r} is not in {self}")
        return self._nearest(value)

    def _quantile(self, q: float) -> float:
        if self.log:
            return self._fit(math.exp(math.log(self.low) * (1 - q) + math.log(self.high) * q))
        return self._fit(self.low * (1 - q) + self.high * q)

    def to_dict(self) -> dict[str, Any]:
        return _range_to_dict(self.kind, self.low, self.high, self.log, self.step)


@dataclass(frozen=True, slots=True)
class Int(Domain):
    """Whole numbers low, low + step, ... high; `high` is one of them."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        for what in ("low", "high", "step"):
            object.__setattr__(self, what, whole("Int", what, getattr(self, what)))
        check_bounds("Int", self.low, self.high, self.log, self.step, single=True)

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def sample(self, rng: np.random.Generator) -> int:
        if not self.log:
            return self.at(int(rng.integers(self.size)))
        # every value owns the interval up to the next one: Ray Tune's floor(exp(uniform)), for any step
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high + self.step)))
        return self.at(min(max(math.floor((value - self.low) / self.step), 0), self.size - 1))

    def contains(self, value: Any) -> bool:
        return (
            is_number(value)
            and value == int(value)
            and self.low <= value <= self.high
            and (int(value) - self.low) % self.step == 0
        )

    def cast(self, value: Any) -> int:
        return int(value)

    def at(self, index: int) -> int:
        return self.low + index * self.step

    def index(self, value: Any) -> int:
        if not self.contains(value):
            raise SpecError(f"{value!r} is not in {self}")
        return (int(value) - self.low) // self.step

    def to_dict(self) -> dict[str, Any]:
        return _range_to_dict(self.kind, self.low, self.high, self.log, None if self.step == 1 else self.step)


@dataclass(frozen=True, slots=True)
class Normal(Domain):
    """A normal distribution with `mean` and standard deviation `sd`, rounded to multiples of `step`."""

    mean: float = 0.0
    sd: float = 1.0
    step: float | None = None
    kind: ClassVar[str] = "normal"

    def __post_init__(self) -> None:
        for what in ("mean", "sd"):
            object.__setattr__(self, what, float(finite("normal", what, getattr(self, what))))
        if self.sd <= 0:
            raise SpecError(f"normal(sd={self.sd!r}): the standard deviation must be above 0")
        if self.step is not None and not finite("normal", "q", self.step) > 0:
            raise SpecError(f"normal(q={self.step!r}): the step must be above 0")

    def sample(self, rng: np.random.Generator) -> float:
        return self.fit(float(rng.normal(self.mean, self.sd)))

    def fit(self, value: float) -> float:
        """Round to a multiple of the step."""
        if self.step is None:
            return value
        return float(round(value / self.step) * Decimal(repr(self.step)))

    def contains(self, value: Any) -> bool:
        return is_number(value)

    def cast(self, value: Any) -> float:
        return float(value)

    def at_quantile(self, q: float) -> float:
        """Return the value below which a share `q` (between 0 and 1) of the distribution lies."""
        from statistics import NormalDist  # slow to import, and only some searchers need it

        return self.fit(NormalDist(self.mean, self.sd).inv_cdf(q))

    def quantile_of(self, value: float) -> float:
        """Return the share of the distribution below `value`: the inverse of `at_quantile`."""
        from statistics import NormalDist

        return NormalDist(self.mean, self.sd).cdf(value)

    def _quantile(self, q: float) -> float:
        return self.at_quantile(0.05 + 0.9 * q)  # the ends themselves lie at infinity

    def to_dict(self) -> dict[str, Any]:
        form = {"type": self.kind, "mean": self.mean, "sd": self.sd}
        return form if self.step is None else {**form, "step": self.step}


@dataclass(frozen=True, slots=True)
class Categorical(Domain):
    """One of a list of values of any kind, all equally likely."""

    values: tuple[Any, ...]
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", list_of("choice" if self.kind == "choice" else "grid_search", self.values))

    @property
    def size(self) -> int:
        return len(self.values)

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    def contains(self, value: Any) -> bool:
        return self._find(value) is not None

    def cast(self, value: Any) -> Any:
        return self.values[self.index(value)]

    def at(self, index: int) -> Any:
        return self.values[index]

    def index(self, value: Any) -> int:
        found = self._find(value)
        if found is None:
            raise SpecError(f"{value!r} is not one of {list(self.values)!r}")
        return found

    def _find(self, value: Any) -> int | None:
        close = [i for i, own in enumerate(self.values) if same(own, value)]
        exact = [i for i in close if type(self.values[i]) is type(value)]  # 1 and 1.0 may both be there
        return next(iter(exact or close), None)

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.kind, "values": [plain(value) for value in self.values]}


@dataclass(frozen=True, slots=True)
class Grid(Categorical):
    """Values that are all to be tried: random search cycles through them, others choose among them."""

    kind: ClassVar[str] = "grid"


@dataclass(frozen=True, slots=True)
class Constant(Domain):
    """A single value, taken as it is, even if it looks like a domain or a nested space."""

    value: Any
    kind: ClassVar[str] = "const"

    @property
    def size(self) -> int:
        return 1

    def sample(self, rng: np.random.Generator) -> Any:
        return self.value

    def contains(self, value: Any) -> bool:
        return same(self.value, value)

    def cast(self, value: Any) -> Any:
        return self.value

    def at(self, index: int) -> Any:
        return self.value

    def index(self, value: Any) -> int:
        return 0

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.kind, "value": plain(self.value)}


@dataclass(frozen=True, slots=True)
class Function(Domain):
    """A value computed from the rest of the config, once that is known. Draws nothing itself.

    The function takes the config, or nothing. It may also read it as Ray Tune's `spec.config.lr`.
    """

    func: Callable[..., Any]
    takes_config: bool = field(init=False)
    kind: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        if not callable(self.func):
            raise SpecError(f"sample_from({self.func!r}): a function of the config is needed")
        try:
            inspect.signature(self.func).bind({})
        except TypeError:
            object.__setattr__(self, "takes_config", False)
        except ValueError:  # a builtin that hides its signature
            object.__setattr__(self, "takes_config", True)
        else:
            object.__setattr__(self, "takes_config", True)

    @property
    def size(self) -> int:
        return 1

    def contains(self, value: Any) -> bool:
        return True

    def sample(self, rng: np.random.Generator) -> Any:
        raise SpecError(f"{self.name} needs the rest of the config: sample the space, not this domain")

    @property
    def name(self) -> str:
        """The function's qualified name, to show."""
        return str(getattr(self.func, "__qualname__", None) or type(self.func).__qualname__)

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.kind, "name": self.name}


def _range_to_dict(kind: str, low: float, high: float, log: bool, step: float | None) -> dict[str, Any]:
    form: dict[str, Any] = {"type": kind, "low": low, "high": high}
    if log:
        form["log"] = True
    if step is not None:
        form["step"] = step
    return form
