"""A config as text that can be pasted: Python, YAML, JSON, or arguments of a command line."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tune_platform.progress.text import finite
from tune_platform.protocol.configs import Unavailable, reference, shown

_WIDTH = 88


def as_python(config: Mapping[str, Any], name: str = "config") -> str:
    """Return an assignment in Python: `config = {...}`, after the imports that it needs."""
    modules = sorted({name.partition(":")[0] for name in _references(config)} - {"__main__", "builtins"})
    return "".join(f"import {module}\n" for module in modules) + f"{name} = {_python(dict(config), '')}"


def as_yaml(config: Mapping[str, Any]) -> str:
    """Return YAML, keys in their order; tuples are lists, objects "module:name"."""
    import yaml

    config = shown(config)

    text: str = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    if not text.replace("\n", "").isprintable():  # PyYAML writes control characters as they are, which reads wrongly
        text = yaml.safe_dump(_plain(config), sort_keys=False)
    return text.rstrip("\n")


def as_json(config: Mapping[str, Any]) -> str:
    """Return JSON; what is not finite becomes null."""
    return json.dumps(finite(shown(config)), indent=2, ensure_ascii=False)


def as_args(config: Mapping[str, Any]) -> str:
    """Return `--lr=0.01 --model.width=64`, quoted for a shell."""
    return shlex.join(f"--{key}={_text(value)}" for key, value in _dotted(shown(config)).items())


FORMS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "python": as_python,
    "yaml": as_yaml,
    "json": as_json,
    "args": as_args,
}


def _python(value: Any, indent: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value.isprintable() else repr(value)
    if name := _name_of(value):
        module, _, path = name.partition(":")
        return path if module in ("__main__", "builtins") else f"{module}.{path}"
    if not isinstance(value, (Mapping, list, tuple)) or not value:
        return repr(value)
    inner = indent + "    "
    if isinstance(value, Mapping):
        ends, items = "{}", [f"{_python(key, inner)}: {_python(item, inner)}" for key, item in value.items()]
    else:
        ends, items = "()" if isinstance(value, tuple) else "[]", [_python(item, inner) for item in value]
        if isinstance(value, tuple) and len(value) == 1:
            return f"({items[0]},)"
    line = ends[0] + ", ".join(items) + ends[1]
    if indent and "\n" not in line and len(indent) + len(line) <= _WIDTH:
        return line
    return ends[0] + "".join(f"\n{inner}{item}," for item in items) + f"\n{indent}{ends[1]}"


def _name_of(value: Any) -> str | None:
    return value.name if isinstance(value, Unavailable) else reference(value)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)
    elif isinstance(value, Mapping):
        yield from _references([*value, *value.values()])
    elif name := _name_of(value):
        yield name


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_dotted(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(finite(value), ensure_ascii=False)
