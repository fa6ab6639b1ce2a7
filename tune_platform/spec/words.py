"""Python's words in a file, and the file's words in Python: each side takes both, and means the same by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.spec.options import OPTIONS
from tune_platform.spec.strict_yaml import Document, KeyPath
from tune_platform.spec.values import Problem

_DIFFERENT = tuple(option for option in OPTIONS if option.python != option.file)
_OBJECTIVE = ("metric", "mode")
#: The main key of blocks that may be written as one text.
MAIN_KEYS = {"search": "name", "schedule": "name", "backend": "name", "storage": "path"}


def file_key(key: str) -> str:
    """Return the file's word for a dotted key in either's words: "seed" and "search.seed" are "search.seed"."""
    for option in sorted(_DIFFERENT, key=lambda option: -len(option.python)):
        if key == option.python or key.startswith(f"{option.python}."):
            return option.file + key.removeprefix(option.python)
    return key


def in_file_words(document: Document) -> Document:
    """Return the document with the file's own words; its `written` has where each of the others stands."""
    data, problems = dict(document.data), list(document.problems)
    written: dict[KeyPath, KeyPath] = dict(document.written)

    def twice(path: KeyPath, also: str) -> None:
        problems.append(Problem(path, f"is given twice: also as {also}, which means the same"))

    _write_objective(data, written, twice)
    for option in _DIFFERENT:
        source, target = tuple(option.python.split(".")), tuple(option.file.split("."))
        if option.python in _OBJECTIVE or not _has(data, source):
            continue
        value = _pop(data, source)
        if _has(data, target):
            twice(source, option.file)
        elif not _put(data, target, value):
            problems.append(Problem(source, f"cannot be set beside this {target[0]}; give both as {option.file}"))
        else:
            written[target] = source
    return document._replace(data=data, problems=problems, written=written)


def in_python_words(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of SearchSpec by its own names. Raises SpecError for what is given twice."""
    values = dict(given)
    _read_objective(values)
    for option in reversed(_DIFFERENT):  # what lies inside a block before the block itself
        source, target = tuple(option.file.split(".")), tuple(option.python.split("."))
        if source[0] == "objective" or not _has(values, source):
            continue
        value = _pop(values, source)
        if len(source) == 1 and value == {}:
            continue  # all that was in the block had a name of its own
        if _has(values, target):
            raise SpecError(f"{option.python}: is given twice: also as {option.file}, which means the same")
        _put(values, target, value)
    return values


# ------------------------------------------------------------------------------------------ the objective


def _write_objective(data: dict[str, Any], written: dict[KeyPath, KeyPath], twice: Any) -> None:
    """Turn `metric` and `mode`, each one or several, into the list of objectives, or the single one."""
    given = {word: data.pop(word) for word in _OBJECTIVE if word in data}
    if not given:
        return
    if "objective" in data:
        twice((next(iter(given)),), "objective")
        return
    lists = {word: value for word, value in given.items() if isinstance(value, list)}
    count = max(map(len, lists.values()), default=1)
    objectives: list[dict[str, Any]] = []
    for index in range(count):
        objectives.append({})
        for word, value in given.items():
            if word not in lists or index < len(value):
                objectives[-1][word] = value[index] if word in lists else value
                at: KeyPath = ("objective", index, word) if lists else ("objective", word)
                written[at] = (word, index) if word in lists else (word,)
    data["objective"] = objectives if lists else objectives[0]


def _read_objective(values: dict[str, Any]) -> None:
    """Turn the `objective` of a file, one or several, into `metric`, `mode` and the budget's target."""
    if "objective" not in values:
        return
    given = values.pop("objective")
    several = given if isinstance(given, (list, tuple)) else [given]
    if not several or not all(isinstance(one, Mapping) and set(one) <= {*_OBJECTIVE, "target"} for one in several):
        raise SpecError("objective: keys and values are wanted: metric, mode, target")
    for word in _OBJECTIVE:
        found = [one[word] for one in several if word in one]
        if found and word in values:
            raise SpecError(f"{word}: is given twice: also as objective.{word}, which means the same")
        if found:
            values[word] = found[0] if len(several) == 1 else tuple(found)
    target = next((one["target"] for one in several if one.get("target") is not None), None)
    if target is not None:
        budget = values.get("budget") or {}
        values["budget"] = {**(budget if isinstance(budget, Mapping) else budget.model_dump()), "target": target}


# ------------------------------------------------------------------------------------------ paths


def _has(data: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    inner: Any = data
    for key in path:
        if not isinstance(inner, Mapping) or key not in inner:
            return False
        inner = inner[key]
    return True


def _pop(data: dict[str, Any], path: tuple[str, ...]) -> Any:
    for key in path[:-1]:
        block = dict(data[key])  # what the caller holds stays as it is
        data[key] = block
        data = block
    return data.pop(path[-1])


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> bool:
    """Put a value at a path; a block that is one text becomes one with keys. False where that is not possible."""
    for key in path[:-1]:
        block = data.get(key) or {}
        if isinstance(block, str) and key in MAIN_KEYS:
            block = {MAIN_KEYS[key]: block}
        if not isinstance(block, Mapping):
            if not hasattr(block, "model_dump"):
                return False
            block = block.model_dump()
        data[key] = dict(block)
        data = data[key]
    data[path[-1]] = value
    return True
