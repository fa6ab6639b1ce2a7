"""Text that is stored and shown elsewhere than where it was made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: Escape sequences of a terminal: colours and cursor moves (CSI), titles and links (OSC), and those of two characters.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-Z\\-~])")

#: How the reason of a search begins whose `budget.time` is used up: more trials alone would not let it go on.
TIME_IS_UP = "the time budget of"


def plain(text: str) -> str:
    """Return text without a terminal's colours and other escape sequences."""
    return _ESCAPES.sub("", text).replace("\x1b", "") if "\x1b" in text else text


def choices_of(choices: Mapping[str, Iterable[Any]]) -> str:
    """Return "optimizer: lion, adan; width: 512": values that choices have got, see `events.Resumed`."""
    return "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in choices.items())
