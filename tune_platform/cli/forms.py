"""A config as text that can be pasted: Python, YAML, JSON, or arguments of a command line."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from tune_platform.progress.text import finite

_WIDTH = 88


def as_python(config: Mapping[str, Any], name: str = "config") -> str:
    """Return an assignment in Python: `config = {...}`."""
    return f"{name} = {_python(dict(config), '')}"


def as_yaml(config: Mapping[str, Any]) -> str:
    """Return YAML, keys in their order."""
    import yaml

    text: str = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
    if not text.replace("\n", "").isprintable():  # PyYAML writes control characters as they are, which reads wrongly
        text = yaml.safe_dump(_plain(config), sort_keys=False)
    return text.rstrip("\n")


def as_json(config: Mapping[str, Any]) -> str:
    """Return JSON; what is not finite becomes null."""
    return json.dumps(finite(config), indent=2, ensure_ascii=False)


def as_args(config: Mapping[str, Any]) -> str:
    """Return `--lr=0.01 --model.width=64`, quoted for a shell."""
    return shlex.join(f"--{key}={_text(value)}" for key, value in _dotted(config).items())


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
    if not isinstance(value, (Mapping, list, tuple)) or not value:
        return repr(value)
    inner = indent + "    "
    if isinstance(value, Mapping):
        ends, items = "{}", [f"{_python(key, inner)}: {_python(item, inner)}" for key, item in value.items()]
    else:
        ends, items = "[]", [_python(item, inner) for item in value]
    line = ends[0] + ", ".join(items) + ends[1]
    if indent and "\n" not in line and len(indent) + len(line) <= _WIDTH:
        return line
    return ends[0] + "".join(f"\n{inner}{item}," for item in items) + f"\n{indent}{ends[1]}"


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
