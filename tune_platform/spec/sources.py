"""From a file to a spec, and where each of its values comes from: flag over environment over file over default."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tune_platform.errors import SpecError
from tune_platform.spec.model import SearchSpec
from tune_platform.spec.reading import arguments_of
from tune_platform.spec.strict_yaml import Document, read
from tune_platform.spec.values import describe, leaves
from tune_platform.spec.words import MAIN_KEYS, file_key, in_file_words

#: Environment variables that set a key of the spec.
ENVIRONMENT: Mapping[str, str] = {
    "TUNE_PLATFORM_NAME": "name",
    "TUNE_PLATFORM_SEED": "search.seed",
    "TUNE_PLATFORM_TRIALS": "budget.trials",
    "TUNE_PLATFORM_TIME": "budget.time",
    "TUNE_PLATFORM_FAILURES": "budget.failures",
    "TUNE_PLATFORM_CONCURRENCY": "budget.concurrency",
    "TUNE_PLATFORM_CPU": "resources.cpu",
    "TUNE_PLATFORM_GPU": "resources.gpu",
    "TUNE_PLATFORM_STORAGE": "storage",
    "TUNE_PLATFORM_BACKEND": "backend.name",
    "TUNE_PLATFORM_ADDRESS": "backend.address",
}


def load_spec(path: str | Path) -> SearchSpec:
    """Read a YAML spec file. Raises SpecError with everything that is wrong, each with its line."""
    return SearchSpec(**arguments_of(read(Path(path)), Path(path).name)).read_from(path)


def resolve(
    file: str | Path | Mapping[str, Any],
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[SearchSpec, dict[str, str]]:
    """Return the spec, and for each key ("budget.trials") where its value comes from.

    `file` is a path or a file's content; `env` the environment (None: this process's); `overrides` are values
    by dotted key, as from flags (text is read as a YAML value). Raises SpecError with all that is wrong.
    """
    document = Document(dict(file), {}, []) if isinstance(file, Mapping) else read(Path(file))
    title = str(document.data.get("name") or "spec") if isinstance(file, Mapping) else Path(file).name
    env = os.environ if env is None else env
    document = in_file_words(document)
    data = copy.deepcopy(document.data)
    given = dict.fromkeys(leaves(data), title)
    for variable, key in ENVIRONMENT.items():
        if env.get(variable):
            _set(data, key, env[variable], given, f"environment {variable}")
    for key, value in (overrides or {}).items():
        _set(data, file_key(key), value, given, "flag")
    if given.get("budget.trials", title) != title and given.get("budget.num_samples") == title:
        # Who asks for 30 trials means 30, whatever number of samples the file has.
        del data["budget"]["num_samples"], given["budget.num_samples"]
    spec = SearchSpec(**arguments_of(document._replace(data=data), title))
    if not isinstance(file, Mapping):
        spec.read_from(file)
    return spec, {key: _origin(key, given) for key in leaves(spec.to_dict())}


def explain(spec: SearchSpec, sources: Mapping[str, str]) -> str:
    """Return one line for each key: its value and where it comes from."""
    values = {key: str(value) for key, value in leaves(spec.to_dict()).items()}
    width, longest = max(map(len, values)), min(40, max(map(len, values.values())))
    return "\n".join(
        f"{key:<{width}}  {value:<{longest}}  {sources.get(key, 'default')}" for key, value in values.items()
    )


def _set(data: dict[str, Any], key: str, value: Any, given: dict[str, str], origin: str) -> None:
    """Put a value at a dotted key, and note where it and what lies below it come from."""
    *blocks, last = key.split(".")
    inner: Any = data
    for block in blocks:
        found = inner.get(block)
        if isinstance(found, str) and block in MAIN_KEYS:
            found = {MAIN_KEYS[block]: found}
        if found is not None and not isinstance(found, dict):
            raise SpecError(f"{origin}: cannot set {key}: {block} is {describe(found)}")
        inner[block] = found or {}
        inner = inner[block]
    inner[last] = _value(value)
    for other in [other for other in given if other == key or other.startswith(f"{key}.")]:
        del given[other]
    given[key] = origin


def _value(value: Any) -> Any:
    """Read text as YAML would; here `1e-4` is a number, since nobody quotes on a command line."""
    if not isinstance(value, str):
        return value
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _origin(key: str, given: Mapping[str, str]) -> str:
    """Return the origin of the longest key that is `key`, or holds it, or is held by it."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if (found := given.get(".".join(parts[:length]))) is not None:
            return found
    return "default"
