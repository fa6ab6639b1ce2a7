"""The portfolio: who is asked, by what, and bad input."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial
from tune_platform.registry import make_searcher
from tune_platform.space import Space, uniform

SPACE = Space({"x": uniform(0, 1)})


def start(**options: Any) -> Any:
    searcher = make_searcher("portfolio", random_fraction=0, **options)
    searcher.setup(SPACE, mode=["min"], seed=0)
    return searcher


def past(favoured: str, count: int = 60) -> list[PastTrial]:
    """Return trials of all members in turn, of which those of one member are good."""
    members = ("bohb", "evolution", "random")
    found = []
    for number in range(count):
        by = members[number % 3]
        value = number / 1000 + (by != favoured)
        outcome = Outcome("completed", value, 1, (value,), {"x": 0.5}, 1.0, ((1.0, value),))
        found.append(PastTrial(number, {"x": 0.5}, {"model": True, "by": by}, outcome))
    return found


@pytest.mark.parametrize("favoured", ["bohb", "evolution", "random"])
def test_the_member_whose_trials_are_good_is_asked_most(favoured: str) -> None:
    searcher = start()
    searcher.restore(past(favoured))
    asked = Counter(searcher.ask(60 + number).memo["by"] for number in range(40))
    assert asked.most_common(1)[0][0] == favoured
    assert asked[favoured] >= 30


def test_all_members_learn_from_all_trials() -> None:
    searcher = start()
    searcher.restore(past("bohb"))
    assert all(member._history is searcher._history for member in searcher._built.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"members": ["bohb", "evolutoin"]}, r"got 'evolutoin' \(did you mean 'evolution'\?\); allowed: bohb, cqr"),
        ({"members": ["bohb"]}, "two or more different names"),
        ({"members": "bohb"}, "two or more different names"),
        ({"members": ["bohb", "bohb"]}, "two or more different names"),
    ],
)
def test_bad_members(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=f"portfolio: members: {said}"):
        start(**options)
