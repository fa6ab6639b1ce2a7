"""What was decided about a trial, when and why: lines for people, from the rows of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from tune_platform.protocol.text import choices_of
from tune_platform.results.trials import moment
from tune_platform.store.records import LogRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One line of a trial's history: at `time`, after report `step`, this happened."""

    time: datetime
    step: int | None
    #: suggested | launched | started | continue | pause | stop | clone | resize | moved | failed | requested | ended |
    #: resumed
    verdict: str
    reason: str
    cause: str = ""  # the fact that it followed from, in words; empty for what is a fact itself


def reasons_of(rows: Iterable[LogRow], facts: Mapping[int, LogRow]) -> Iterator[Reason]:
    """Yield the history of a trial: what the rows of the log are worth; `facts` are what they followed from."""
    begun: set[object] = set()  # attempts whose start is told
    for row in rows:
        attempt = row.data.get("attempt")
        if row.kind in ("started", "reported") and attempt is not None and attempt not in begun:
            begun.add(attempt)  # one that reports at once has no row for its start
            where = f" in {row.data['worker']}" if row.data.get("worker") else ""
            yield Reason(time=moment(row.time), step=None, verdict="started", reason=f"attempt {attempt}{where}")
        elif (reason := _read(row, facts.get(row.stimulus or 0))) is not None:
            yield reason


def _read(row: LogRow, fact: LogRow | None) -> Reason | None:
    """Tell of a row that is damaged that it is."""
    try:
        return _reason_of(row, fact)
    except (LookupError, TypeError, ValueError):
        told = f"row {row.seq} of the log, or what it followed from, is damaged: doctor tells more"
        return Reason(time=moment(row.time), step=None, verdict=row.kind, reason=told)


def _reason_of(row: LogRow, fact: LogRow | None) -> Reason | None:
    if row.kind == "resumed":
        more = row.data.get("choices")
        text = "a new driver took over" + (f", with more choices: {choices_of(more)}" if more else "")
        return Reason(time=moment(row.time), step=None, verdict="resumed", reason=text)
    if row.trial is None:
        return None
    step, verdict, data = row.data.get("step"), row.kind, row.data
    if row.kind == "verdict":
        verdict, reason = str(data["verdict"]), str(data.get("reason") or "")
        if verdict == "clone":
            source = f"from trial {data['source']}"
            reason = reason if source in reason else f"{source}: {reason}"
        if data.get("until") is not None:
            reason = f"{reason}; until {data['until']:g}" if reason else f"until {data['until']:g}"
    elif row.kind == "launched":
        nodes = ", ".join(str(node) for node in sorted(set(data["nodes"])))
        reason = f"attempt {data['attempt']}" + (f" on node {nodes}" if nodes else "")  # former logs do not say where
        if data.get("until") is not None:
            reason += f"; until {data['until']:g}"
    elif row.kind == "moved":
        reason = f"{data['status']}: {data['reason']}" if data["reason"] else str(data["status"])
    elif row.kind == "suggested":
        origins = {"searcher": "by the searcher", "start": "as a start point", "user": "by a person"}
        step, reason = 0, origins.get(str(data.get("origin", "searcher")), "")
    elif row.kind == "failed":
        reason = f"attempt {data.get('attempt')}: {data.get('cause')}: {data.get('message')}"
    elif row.kind == "requested":
        reason = f"a person asked: {data.get('action')}"
    else:
        return None
    cause = _in_words(fact) if fact is not None else ""
    return Reason(time=moment(row.time), step=step, verdict=verdict, reason=reason, cause=cause)


def _in_words(row: LogRow) -> str:
    """Return a fact of the log in words."""
    data, trial = row.data, f"trial {row.trial}"
    match row.kind:
        case "reported" if "last" in data and data["last"] >= data["first"]:
            first, last = data["first"], data["last"]
            return f"{trial} reported step {last}" if first == last else f"{trial} reported steps {first} to {last}"
        case "reported":
            return f"{trial} came to its end" if data.get("done") else f"{trial} waits"
        case "saved":
            return f"{trial} was saved" if data["checkpoint"] else f"{trial} had nothing to save"
        case "failed":
            return f"{trial} failed: {data['cause']}"
        case "suggested":
            return f"{trial} was suggested"
        case "started":
            return f"{trial} started"
        case "requested":
            return f"a person asked: {data['action']}" + ("" if row.trial is None else f" {trial}")
        case "capacity":
            return "there was a change of nodes"
        case "exhausted":
            return f"no more suggestions: {data['reason']}"
    return {"ticked": "time passed", "resumed": "a new driver took over"}.get(row.kind, row.kind)
