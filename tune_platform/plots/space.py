"""The declared space as figures need it: one dimension a parameter, read from the stored spec.

It is read as data: nothing that a spec names is imported for a picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tune_platform.protocol.configs import DICT, OBJECT, TUPLE

Cell = str | float | int | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One parameter. `kind`: float | int | choice | normal; `condition` says when it exists, empty: always."""

    name: str
    kind: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Cell, ...] = ()
    condition: str = ""

    @property
    def numeric(self) -> bool:
        """Whether its values lie on a scale."""
        return self.kind in ("float", "int", "normal")


def read_space(form: Any) -> dict[str, Dimension]:
    """Return the parameters of a space in the form of a spec file, by their flat names; none for a function."""
    return dict(_walk(form, "")) if isinstance(form, Mapping) and form.get("type") != "function" else {}


def _walk(form: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Dimension]]:
    for key, value in form.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if not isinstance(value, Mapping):
            continue
        kind = value.get("type")
        if not isinstance(kind, str):
            yield from _walk(value, name)
        elif kind in ("float", "int"):
            low, high, step = (_number(value.get(word)) for word in ("low", "high", "step"))
            log = value.get("log") is True
            yield (
                name,
                Dimension(name=name, kind=kind, low=low, high=high, log=log, step=step, condition=_condition(value)),
            )
        elif kind == "normal":
            yield name, Dimension(name=name, kind=kind, condition=_condition(value))
        elif kind in ("choice", "grid"):
            values = value.get("values")
            choices = tuple(cell(each) for each in values) if isinstance(values, (list, tuple)) else ()
            yield name, Dimension(name=name, kind="choice", choices=choices, condition=_condition(value))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _condition(form: Mapping[str, Any]) -> str:
    when = form.get("when")
    return (
        "" if not when else ", ".join(f"{k} = {v}" for k, v in when.items()) if isinstance(when, Mapping) else str(when)
    )


def cell(value: Any) -> Cell:
    """Return a value of a stored config as a cell: numbers, truth values and text stay, the rest becomes text.

    None becomes the text "None": in columns, None says that a trial does not have the parameter.
    """
    if value is None:
        return "None"
    if isinstance(value, (str, bool, int, float)):
        return value
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and len(value) == 1:
        ((word, inner),) = value.items()
        if word == OBJECT:
            return str(inner)
        if word == TUPLE and isinstance(inner, list):
            return f"({', '.join(map(_text, inner))}{',' if len(inner) == 1 else ''})"
    return json.dumps(value, ensure_ascii=False, default=str)


_SIMPLE = (float, int, str, bool)


def cells(config: Mapping[str, Any], prefix: str = "") -> dict[str, Cell]:
    """Return the leaves of a stored config by their paths: {"a": {"b": 1}} is {"a/b": 1}."""
    found: dict[str, Cell] = {}
    for key, value in config.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if type(value) in _SIMPLE:  # most are
            found[name] = value
            continue
        special = isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in (OBJECT, TUPLE, DICT)
        if isinstance(value, Mapping) and value and not special:
            found.update(cells(value, name))
        else:
            found[name] = cell(value)
    return found
