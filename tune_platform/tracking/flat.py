"""Configs and metrics as flat mappings, which is all that trackers know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.protocol.configs import shown


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by names joined with "/"; what is no number, text or truth value becomes text."""
    found: dict[str, Any] = {}
    for name, value in shown(values).items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}/"))
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among them."""
    return {
        name: float(value) for name, value in flat(values).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }  # fmt: skip
