"""What a setting may be, in words and as a test: one message for each that cannot, before a step is taken."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

from tune_platform.errors import SpecError


class Rule(NamedTuple):
    """What is allowed, to go on "NAME is ...", and whether a value is."""

    allowed: str
    fits: Callable[[Any], bool]

    @property
    def or_null(self) -> Rule:
        """The same, or None."""
        return Rule(f"{self.allowed}, or null", lambda value: value is None or self.fits(value))


def check_values(config: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise SpecError for the first value of `config` that its rule does not allow: name, what is allowed, value."""
    for name, (allowed, fits) in rules.items():
        if not fits(config[name]):
            raise SpecError(f"{name} is {allowed}, got {config[name]!r}")


def as_number(value: Any) -> float:
    """Return a number, also where YAML took it for text (3e-4); NaN for what is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def is_whole(value: Any, least: float) -> bool:
    """Return whether it is a whole number and not less than `least`; text is none."""
    return isinstance(value, Real) and as_number(value).is_integer() and as_number(value) >= least


def whole(least: int) -> Rule:
    """Allow whole numbers from `least` on."""
    return Rule(f"a whole number, {least} or more", lambda value: is_whole(value, least))


def number(allowed: str, fits: Callable[[float], bool] = math.isfinite) -> Rule:
    """Allow finite numbers that fit."""
    return Rule(f"a number, {allowed}", lambda value: math.isfinite(as_number(value)) and bool(fits(as_number(value))))


#: Numbers of the usual kinds.
POSITIVE = number("above 0", lambda value: value > 0)
AT_LEAST_0 = number("at least 0", lambda value: value >= 0)
SHARE = number("0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = number("at least 0 and below 1", lambda value: 0 <= value < 1)
SWITCH = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str))
PATH = Rule("a path", lambda value: isinstance(value, (str, os.PathLike)))
