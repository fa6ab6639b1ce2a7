"""docs/papers.md says what the stored results say, of all five papers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies import papers
from tune_platform.trainables.stats import mean_interval
from tune_platform.trainables.studies.tables import markdown

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_stored_results_say() -> None:
    claims = papers.claims(ROOT / papers.FIGURES)
    page = (ROOT / papers.PAGE).read_text(encoding="utf-8")
    assert markdown(papers.TITLES, claims) in page
    assert len(claims) >= 20
    assert {paper for paper, *_ in claims} == {"codistillation", "LSGD", "robustness", "policy gradients", "STRICT"}
    for claim in claims:
        assert all(cell.strip() for cell in claim)
        assert "nan" not in claim[3]


@pytest.mark.parametrize(
    ("values", "positive", "said"),
    [
        ([1.0, 1.1, 0.9], True, "shows"),
        ([1.0, 1.1, 0.9], False, "the reverse shows: tried"),
        ([-1.0, -1.1, -0.9], False, "shows"),
        ([1.0, -1.1, 0.9], True, "does not show: tried"),
    ],
)
def test_a_verdict_follows_from_the_interval(values: list[float], positive: bool, said: str) -> None:
    assert papers.verdict(mean_interval(values), positive, why="tried") == said
