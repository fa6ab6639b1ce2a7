"""The one rule of where a trial halts: at its milestone, and where a condition to stop is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tune_platform.protocol.reports import Report, finite, number


def stopped_by(report: Report, stop: Mapping[str, float]) -> str | None:
    """Return the name of the first condition of `stop` whose value this report has reached, if any."""
    for name, threshold in stop.items():
        if _at_least(report.value(name), threshold):
            return name
    return None


#: What a judged metric that is no finite number does: fails its trial, ends it as the worst, or does not count.
OnBadMetric = Literal["fail", "prune", "ignore"]


def bad_metric(report: Report, metrics: Sequence[str]) -> str | None:
    """Return the first of the judged metrics that this report has, and not as a finite number."""
    return next((name for name in metrics if name in report.metrics and finite(report.metrics[name]) is None), None)


def reached(report: Report, resource: str, until: float | None) -> bool:
    """Whether this report has come to the milestone `until` (None: there is none), measured in `resource`."""
    return until is not None and _at_least(report.value(resource), until)


def halts(
    report: Report, resource: str, until: float | None, stop: Mapping[str, float], pruned: Sequence[str] = ()
) -> bool:
    """Whether a trial waits for the controller after this report; `pruned`: metrics that end it where they are bad."""
    return (
        reached(report, resource, until)
        or stopped_by(report, stop) is not None
        or (bool(pruned) and bad_metric(report, pruned) is not None)
    )


def _at_least(value: Any, threshold: float) -> bool:
    found = number(value)
    return found is not None and found >= threshold


def betters(report: Report, metric: str, mode: str, best: float | None) -> bool:
    """Whether a report has a better value (`mode`: min or max) of the metric than `best`, if there was one."""
    value = finite(report.value(metric))
    return value is not None and (best is None or (value > best if mode == "max" else value < best))
