"""Text that is stored and shown elsewhere than where it was made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: Escape sequences of a terminal: colours and cursor moves (CSI), titles and links (OSC), and those of two characters.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-Z\\-~])")

#: How the reason of a search begins whose `budget.time` is used up: more trials alone would not let it go on.
TIME_IS_UP = "the time budget of"
#: ... and whose `budget.deadline`, `budget.gpu_hours` or `budget.cost` is.
DEADLINE_IS_UP, GPU_TIME_IS_UP, COST_IS_UP = "the deadline", "the budget of", "the cost limit of"

#: What is said of text that is not: it gets the text.
NO_UNICODE = (
    "got {!r}, which no file or table can hold: a part of it stands for no character, as in a file name of another "
    "encoding; write it in Unicode"
)


def plain(text: str) -> str:
    """Return text without a terminal's colours and other escape sequences."""
    return _ESCAPES.sub("", text).replace("\x1b", "") if "\x1b" in text else text


def is_unicode(text: str) -> bool:
    """Whether text can be written anywhere: half of a surrogate pair, as in a file name that is no UTF-8, cannot."""
    return text.isascii() or printable(text) == text


def printable(text: str) -> str:
    """Return the text with its lone surrogates, which nothing can encode, as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def choices_of(choices: Mapping[str, Iterable[Any]]) -> str:
    """Return "optimizer: lion, adan; width: 512": values that choices have got, see `events.Resumed`."""
    return "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in choices.items())
