"""First in, first out: every trial runs to its own end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Decisions


class FIFO:
    """Run trials in the order of their suggestion, each to its own end or to the spec's `stop` condition."""

    resource = "step"

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Nothing to keep."""

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return no milestone: reports are not waited for."""
        return None, False

    def on_add(self, trial: TrialView) -> None:
        """Nothing to note."""

    def on_start(self, trial: TrialView) -> None:
        """Nothing to note."""

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Judge nothing."""
        return None

    def choose(self, candidates: Candidates) -> int | None:
        """Return the oldest waiting trial."""
        trial = next(candidates.waiting(), None)
        return trial.number if trial else None

    def on_end(self, trial: TrialView, status: str) -> None:
        """Nothing to forget."""

    def on_supply_end(self) -> None:
        """Nothing to do about it."""

    def state(self) -> Mapping[str, Any]:
        """Return nothing: it remembers nothing."""
        return {}

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take nothing over."""

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name by which `make_scheduler` builds it again."""
        return {"name": "fifo"}

    def describe(self) -> Mapping[str, Any]:
        """Return an empty description."""
        return {}
