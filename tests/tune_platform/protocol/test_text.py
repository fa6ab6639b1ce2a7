from __future__ import annotations

import pytest

from tune_platform.protocol.events import Exhausted, Failed
from tune_platform.protocol.text import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing to do", "nothing to do"),
        ("\x1b[31mred\x1b[0m and \x1b[1;4;38;5;9mbold\x1b[m", "red and bold"),
        ("\x1b[2K\x1b[1A50 %", "50 %"),
        ("\x1b]0;title\x07text \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "text link"),
        ("\x1b(Bplain\x1b7", "plain"),
        ("cut \x1b[31", "cut [31"),
        ("[31m is no colour, nor is a\ttab\n", "[31m is no colour, nor is a\ttab\n"),
    ],
)
def test_escape_sequences_are_left_out(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_facts_have_no_colours() -> None:
    failed = Failed(time=0.0, trial=0, attempt=1, cause="exception", message="\x1b[31mred", traceback="\x1b[1mbold")
    assert (failed.message, failed.traceback) == ("red", "bold")
    assert Exhausted(time=0.0, reason="\x1b[31mred\x1b[0m", failed=True).reason == "red"
