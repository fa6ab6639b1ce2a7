"""Checks and comparisons of single values, shared by the domains."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tune_platform.errors import SpecError
from tune_platform.protocol.configs import DICT, OBJECT, TUPLE, reference


def same(a: Any, b: Any) -> bool:
    """Compare two config values as JSON would keep them: tuples equal lists, True is not 1, NaN is NaN."""
    if a is b:
        return True
    if isinstance(b, str) and not isinstance(a, str):
        return reference(a) == b  # an object, as a person writes it
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    try:
        return bool(a == b) or bool(a != a and b != b)
    except (TypeError, ValueError):  # arrays and other values that do not compare to one truth
        return False


def unboxed(value: Any) -> Any:
    """Return `value` with the scalars of NumPy in it, at any depth, as Python's own.

    Those of few digits become what they are written as: `np.float32(0.1)` is 0.1, not 0.10000000149.
    """
    if isinstance(value, np.floating) and value.dtype.itemsize < 8:
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    kind = type(value)
    if kind is dict:
        return {unboxed(key): unboxed(item) for key, item in value.items()}
    return kind(map(unboxed, value)) if kind is list or kind is tuple else value


def plain(value: Any) -> Any:
    """Return `value` in the words of `protocol.configs`; what has no words there becomes its name or its `repr`."""
    if hasattr(value, "to_dict") and hasattr(value, "contains"):  # a domain
        return value.to_dict()
    if isinstance(value, np.generic):
        return unboxed(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return form_of_dict([(key, plain(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        items = [plain(item) for item in value]
        return {TUPLE: items} if isinstance(value, tuple) else items
    name = reference(value)
    if name and not name.startswith("__main__:"):
        return {OBJECT: name}
    return str(getattr(value, "__qualname__", None) or repr(value))


def form_of_dict(items: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Return a dict in the words of `protocol.configs`; its values are so already."""
    if all(isinstance(key, str) and key[:1] != "$" for key, _ in items):
        return dict(items)
    return {DICT: [[plain(key), item] for key, item in items]}


def number_from_text(text: str) -> str:
    """Return advice for a string that was meant as a number, or an empty string."""
    try:
        value = float(text)
    except ValueError:
        return ""
    if re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", text.strip()):
        mantissa, exponent = re.split("[eE]", text.strip())
        return f" (YAML reads {text} as text: write {mantissa}.0e{exponent})"
    return f" (that is text: write {value!r} without quotes)"


def is_number(value: Any) -> bool:
    """Tell whether `value` is a finite int or float."""
    if isinstance(value, int):
        return not isinstance(value, bool) and value.bit_length() <= 64
    return isinstance(value, float) and math.isfinite(value)


def finite(where: str, what: str, value: Any) -> float:
    """Return `value` if it is a finite number; else SpecError, naming the function `where` and its `what`."""
    value = unboxed(value)
    if not is_number(value):
        advice = number_from_text(value) if isinstance(value, str) else ""
        if isinstance(value, int) and not isinstance(value, bool):
            raise SpecError(f"{where}({what}=...): a whole number of more than 64 bits; give a float")
        raise SpecError(f"{where}({what}={value!r}): a finite number is needed{advice}")
    return value  # type: ignore[no-any-return]


def whole(where: str, what: str, value: Any) -> int:
    """Return `value` as an int if it is a whole number; else SpecError."""
    number = finite(where, what, value)
    if number != int(number):
        raise SpecError(f"{where}({what}={value!r}): a whole number is needed")
    return int(number)


def check_bounds(where: str, low: Any, high: Any, log: bool = False, step: Any = None, *, single: bool = False) -> None:
    """Raise SpecError unless the bounds make a range (`single`: of one value or more)."""
    low, high = finite(where, "low", low), finite(where, "high", high)
    if low > high or (low == high and not single):
        raise SpecError(f"{where}(low={low!r}, high={high!r}): low must be below high")
    if log and low <= 0:
        raise SpecError(f"{where}(low={low!r}): a logarithmic scale needs low above 0")
    if step is not None:
        if finite(where, "step", step) <= 0:
            raise SpecError(f"{where}(step={step!r}): the step must be above 0")
        if not divides(step, high - low):
            raise SpecError(f"{where}(low={low!r}, high={high!r}, step={step!r}): the step must divide high - low")


def divides(q: float, number: float) -> bool:
    """Tell whether `number` is a multiple of `q`, up to rounding."""
    return math.isclose(number / q, round(number / q), rel_tol=1e-9, abs_tol=1e-9)


def list_of(where: str, values: Any) -> tuple[Any, ...]:
    """Return the values of a choice, NumPy scalars as plain ones; SpecError when there are none."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise SpecError(f"{where}({values!r}): a list of values is needed, such as {where}([1, 2])")
    found = tuple(map(unboxed, values))
    if not found:
        raise SpecError(f"{where}([]): at least one value is needed")
    return found
