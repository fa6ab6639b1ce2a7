"""The state of CMA-ES as JSON, so that resuming it never unpickles anything from a log.

Optuna keeps the optimizer of package `cmaes` in the attributes of a trial, as a pickle in hex. Here the
pickle of this very process is opened and written down as plain numbers (arrays as base64 of their bytes:
exact); on resume the object is put together again, and only classes named here can come out of it.
"""

from __future__ import annotations

import base64
import importlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

_CHUNK = 2045  # Optuna's own limit for one attribute
_CLASSES = ("CMA", "SepCMA", "CMAwM")
#: a trial's generation, and the point that CMA-ES with margin drew
_PLACE = ("cma:generation", "sepcma:generation", "cmawm:generation", "x_for_tell")


def to_json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's attributes with the optimizer, if it is among them, as JSON."""
    kept = {key: value for key, value in attrs.items() if not _is_part(key)}
    parts = {key: value for key, value in attrs.items() if _is_part(key)}
    if parts:
        prefix = next(iter(parts)).rsplit(":", 1)[0]
        text = "".join(parts[f"{prefix}:{i}"] for i in range(len(parts)))
        kept[prefix] = _encode(pickle.loads(bytes.fromhex(text)))  # written by Optuna in this process
    return kept


def from_json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes as Optuna wants them: the inverse of `to_json`."""
    found: dict[str, Any] = {}
    for key, value in attrs.items():
        if key.endswith(":optimizer") and isinstance(value, Mapping):
            text = pickle.dumps(_decode(value)).hex()
            found.update({f"{key}:{i // _CHUNK}": text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK)})
        else:
            found[key] = value
    return found


def without_place(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes without the trial's place in a generation: its value belongs to another point than drawn.

    The optimizer's own state stays: later trials go on from it.
    """
    return {key: value for key, value in attrs.items() if key not in _PLACE}


def _is_part(key: str) -> bool:
    prefix, _, number = key.rpartition(":")
    return prefix.endswith(":optimizer") and number.isdigit()


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return _encode(np.asarray(value)) | {"scalar": True}
    if isinstance(value, np.random.RandomState):
        return {"random": True}  # Optuna seeds it anew before every use
    if type(value).__name__ in _CLASSES:
        state = {k: _encode(v) for k, v in (vars(value) | _best_values(value)).items()}
        return {"class": type(value).__name__, "state": state}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"the state of CMA-ES holds {value!r}, which is not known here")


def _best_values(optimizer: Any) -> dict[str, Any]:
    """Return its window of each generation's best and worst value, with zeros where no generation has written yet.

    `cmaes` leaves memory there as it finds it, and reads nothing of it before all is written: equal seeds would give
    other bytes.
    """
    values = vars(optimizer).get("_funhist_values")
    if values is None:
        return {}
    window = len(values) // 2
    slots = [generation % window for generation in range(1, min(optimizer.generation, window) + 1)]
    written = np.zeros((window, 2))
    written[slots] = values.reshape(window, 2)[slots]
    return {"_funhist_values": written.reshape(-1)}


def _decode(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "random" in value:
        return np.random.RandomState(0)
    if "array" in value:
        array = np.frombuffer(base64.b64decode(value["array"]), np.dtype(value["dtype"]))
        array = array.reshape(value["shape"]).copy()
        return array[()] if "scalar" in value else array
    cmaes = importlib.import_module("cmaes")
    kind = {name: getattr(cmaes, name) for name in _CLASSES}[value["class"]]
    built = object.__new__(kind)
    vars(built).update({k: _decode(v) for k, v in value["state"].items()})
    return built
