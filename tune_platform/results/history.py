"""What was decided about a trial, when and why: lines for people, from the rows of the log."""

from __future__ import annotations

from dataclasses import dataclass

from tune_platform.store.records import LogRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One line of a trial's history: at `time` (epoch seconds), after report `step`, this happened."""

    time: float
    step: int | None
    verdict: str  # suggested | continue | pause | stop | clone | failed | requested | ended | resumed
    reason: str


def reason_of(row: LogRow) -> Reason | None:
    """Return the line that a row of the log is worth in the history of a trial, if any."""
    if row.kind == "resumed":
        return Reason(time=row.time, step=None, verdict="resumed", reason="a new driver took over")
    if row.trial is None:
        return None
    step, verdict, data = row.data.get("step"), row.kind, row.data
    if row.kind == "verdict":
        verdict, reason = str(data["verdict"]), str(data.get("reason") or "")
        if verdict == "clone":
            reason = f"from trial {data['source']}: {reason}"
        if data.get("until") is not None:
            reason = f"{reason}; until {data['until']:g}" if reason else f"until {data['until']:g}"
    elif row.kind == "suggested":
        origins = {"searcher": "by the searcher", "start": "as a start point", "user": "by a person"}
        step, reason = 0, origins.get(str(data.get("origin")), "")
    elif row.kind == "failed":
        reason = f"attempt {data.get('attempt')}: {data.get('cause')}: {data.get('message')}"
    elif row.kind == "requested":
        reason = f"a person asked: {data.get('action')}"
    else:
        return None
    return Reason(time=row.time, step=step, verdict=verdict, reason=reason)
