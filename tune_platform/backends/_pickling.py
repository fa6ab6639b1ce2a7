"""How things are sent to worker processes."""

from __future__ import annotations

import io
import pickle
from collections import ChainMap
from collections.abc import Mapping
from types import CodeType
from typing import Any, ClassVar

import cloudpickle

_reduced: dict[type, Any] = cloudpickle.Pickler.dispatch_table


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    made, arguments = _reduced[CodeType](code)
    return made, tuple(code.co_filename if argument == "<dynamic-code>" else argument for argument in arguments)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends code with the name of its file, which cloudpickle 3.1.3 leaves out: a traceback then shows the line."""

    dispatch_table: ClassVar[Mapping[type, Any]] = ChainMap({CodeType: _reduce_code}, _reduced)


def dumps(value: Any) -> bytes:
    """Return the pickle of anything, also of functions and classes that a worker cannot import."""
    file = io.BytesIO()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def is_plain(value: Any) -> bool:
    """Whether `value` is made of plain Python values alone, which need no cloudpickle."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
