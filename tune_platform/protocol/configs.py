"""Configs as JSON values, for the store, and back: what JSON has no word for is written as a mapping with one key.

    (1, 2)                 {"$tuple": [1, 2]}
    {1: "a"}               {"$dict": [[1, "a"]]}        also of a dict with a text key that begins with "$"
    torch.nn.ReLU          {"$object": "torch.nn.modules.activation:ReLU"}

An object (a class, a function, a member of an Enum) is stored by the name that it can be imported by, never pickled.
"""

from __future__ import annotations

import enum
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from types import ModuleType
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.protocol.text import NO_UNICODE, is_unicode, printable

TUPLE, DICT, OBJECT = "$tuple", "$dict", "$object"
_SCALARS = (str, float, int, bool, type(None))


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Stands for an object of a config that cannot be imported here; `name` is "module:name"."""

    name: str
    why: str = ""

    def __str__(self) -> str:
        return self.name


def is_plain(value: Any) -> bool:
    """Whether JSON has words for all of it, so that it comes back as it is."""
    kind = type(value)
    if kind in _SCALARS:
        return kind is not str or is_unicode(value)
    if kind is dict:
        return all(
            type(key) is str and key[:1] != "$" and is_unicode(key) and is_plain(item) for key, item in value.items()
        )
    return kind is list and all(map(is_plain, value))


def to_json(value: Any, where: str = "") -> Any:
    """Return a config, or a part of one, as JSON values. Raises SpecError, with its place, for what cannot be kept."""
    try:
        return value if is_plain(value) else _to_json(value, where, _refuse)
    except RecursionError:
        raise SpecError(f"{where or 'a config'}: it is nested too deeply, or holds itself") from None


def from_json(value: Any, missing: Callable[[str, str], Any] | None = None) -> Any:
    """Return what `to_json` was given. `missing(name, why)` stands in for objects that cannot be imported here.

    Raises SpecError for such objects where there is no `missing`.
    """
    if is_plain(value):
        return value
    kind = type(value)
    if kind is list:
        return [from_json(item, missing) for item in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        ((word, inner),) = value.items()
        if word == TUPLE and type(inner) is list:
            return tuple(from_json(item, missing) for item in inner)
        if word == DICT and type(inner) is list:
            return {from_json(key, missing): from_json(item, missing) for key, item in inner}
        if word == OBJECT and type(inner) is str:
            return _import(inner, missing)
    return {key: from_json(item, missing) for key, item in value.items()}


def shown(value: Any) -> Any:
    """Return a config as people read it: objects by their names "module:name", other things as they are."""
    if is_plain(value):
        return value
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(shown, value))
    return reference(value) or (str(value) if isinstance(value, Unavailable) else value)


def reference(value: Any) -> str | None:
    """Return the "module:name" that leads to this very object, in this process; None where there is none."""
    module: Any = getattr(value, "__module__", None)
    name: Any = getattr(value, "__qualname__", None)
    if isinstance(value, enum.Enum):
        name = f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, ModuleType) or not isinstance(module, str) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value else None


def _to_json(value: Any, where: str, other: Callable[[Any, str], Any]) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return _text(value, where or "a config") if kind is str else value
    if kind is list:
        return [_to_json(item, f"{where}/{i}", other) for i, item in enumerate(value)]
    if kind is tuple:
        return {TUPLE: [_to_json(item, f"{where}/{i}", other) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        items = [(key, _to_json(item, f"{where}/{key}".lstrip("/"), other)) for key, item in value.items()]
        for key in (key for key in value if type(key) is str):
            _text(key, f"a key of {where or 'the config'}")
        if all(type(key) is str and key[:1] != "$" for key, _ in items):
            return dict(items)
        return {DICT: [[_to_json(key, f"a key of {where or 'the config'}", other), item] for key, item in items]}
    if name := reference(value):
        return {OBJECT: name}
    if isinstance(value, Unavailable):
        return {OBJECT: value.name}
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of NumPy, a tensor
        return value.item()
    for base in _SCALARS[:3]:
        if isinstance(value, base) and not isinstance(value, enum.Enum):  # a subclass, such as numpy's text
            return base(value)
    return other(value, where)


def _text(value: str, where: str) -> str:
    if not is_unicode(value):
        raise SpecError(f"{printable(where)}: {NO_UNICODE.format(value)}")
    return value


def _refuse(value: Any, where: str) -> Any:
    kind = type(value)
    words = {
        "Namespace": "write vars(...) of it",
        "ndarray": "write .tolist() of it",
        "Tensor": "write .tolist() of it",
        "set": "write a list",
        "frozenset": "write a list",
    }
    advice = words.get(kind.__name__, "")
    if is_dataclass(value):
        advice = "write dataclasses.asdict(...) of it"
    elif hasattr(value, "__fspath__") or kind.__module__ == "datetime":
        advice = "write it as text"
    elif callable(value) and hasattr(value, "__qualname__"):
        advice = (
            "define it at the top of a module (a lambda, or what is defined inside a function, has no name to import)"
        )
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    raise SpecError(
        f"{where or 'a config'}: got {text}, of type {kind.__module__}.{kind.__qualname__}, which a store cannot keep; "
        "allowed are numbers, text, true and false, None, lists, tuples and dicts of these, and classes, functions and "
        f"members of an Enum that can be imported by name. {f'For this one: {advice}; or' if advice else 'Or'} give it "
        "to the training code itself, with functools.partial(train, name=value)"
    )


def _import(name: str, missing: Callable[[str, str], Any] | None) -> Any:
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # of the module's own code too
        why = f"{type(error).__name__}: {error}"
        if missing is None:
            raise SpecError(f"a config holds {name!r}, which cannot be imported here: {why}") from error
        return missing(name, why)
    return found
