"""The state as plain data, so that a resumed experiment need not read its whole log.

A snapshot says what the log means up to one of its rows. It holds living trials only; what the scheduler and the
searcher know they say themselves (`state`), and where one of them does not, the whole log is read instead. Nothing in
it is pickled, and it is only ever a short cut: the log remains the truth.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any, NamedTuple

from tune_platform.engine.failures import FirstTrials
from tune_platform.engine.log import LOGGER
from tune_platform.engine.state import Awaited, Best, State
from tune_platform.engine.trial import Kept, Trial, TrialStatus
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.configs import from_json, to_json
from tune_platform.protocol.effects import Ending, verdict_from_data, verdict_to_data
from tune_platform.protocol.events import ref_from_list, ref_to_list, resources_to_data
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Clone
from tune_platform.resources import Resources

VERSION = 1

#: A snapshot is due after so many rows, and after this share of the log: their cost does not grow with history.
EVERY = 20_000
SHARE = 0.05
#: Characters of the largest snapshot: databases refuse texts of about a gigabyte, and none is worth that much.
LARGEST = 256 * 2**20

_PLAIN_TRIAL = (
    "number", "config", "origin", "reason", "attempt", "failures", "error", "best", "best_step", "best_config",
    "last_config", "configs", "rungs", "unsaved", "until", "save", "milestone", "waits", "saving", "lent", "known",
    "sent_on", "resizing", "bypassed", "held", "pruned", "stopping", "worker", "created", "launched", "started",
    "ended", "history",
)  # fmt: skip
#: What a new trial has there; None where there is no such thing.
_NEW = {
    field.name: field.default if field.default is not MISSING else None if field.default_factory is MISSING
    else field.default_factory()
    for field in fields(Trial)
}  # fmt: skip
_PLAIN_STATE = (
    "paused", "interrupted", "last_request", "held", "extra_time", "now", "elapsed", "stable_since", "shared",
)  # fmt: skip
_PLAIN_SUPPLY = (
    "next_number", "exhausted", "told", "extra", "cost", "interval", "last_launch", "newest",
)  # fmt: skip


def due(seq: int, last: int) -> bool:
    """Whether a snapshot is worth its cost at row `seq`, where the last was made at row `last`."""
    return seq - last >= max(EVERY, SHARE * seq)


class Searcher(NamedTuple):
    """A searcher's own state, and the trials that it had suggested by then, though the state of the search has not."""

    state: Mapping[str, Any]
    ahead: Sequence[int] = ()


def to_text(state: State, searcher: Searcher) -> str | None:
    """Return the state as JSON, with that of the searcher; None where the scheduler does not offer its own."""
    scheduler = getattr(state.scheduler, "state", None)
    known = scheduler() if scheduler is not None else None
    if known is None:
        return None
    supply = state.supply
    data = {
        "version": VERSION,
        "state": {name: getattr(state, name) for name in _PLAIN_STATE},
        "supply": {name: getattr(supply, name) for name in _PLAIN_SUPPLY}
        | {"asked": list(supply.asked), "ordinary": resources_to_data(supply.ordinary)},
        "counts": {status.value: count for status, count in state.counts.items()},
        "best": [state.best.value, state.best.trial, state.best.step, to_json(state.best.config)]
        if state.best
        else None,
        "first": asdict(state.first),
        "ending": [state.ending.status, state.ending.reason] if state.ending else None,
        "finished": [state.finished.status, state.finished.reason] if state.finished else None,
        "spending": state.spending.to_data(),
        "capacity": state.ledger.capacity,
        "peak": state.ledger.peak,
        "nodes": {number: state.ledger.nodes(number) for number in state.placed},
        "heard": list(state.heard.items()),
        "holders": dict(state.shelf.holders),
        "returning": list(state.returning),
        "awaiting": [
            [number, verdict_to_data(waits.clone, 0), waits.step, waits.lost_at]
            for number, waits in state.awaiting.items()
        ],
        "trials": [_trial_to_data(trial) for trial in state.trials.values()],
        "scheduler": known,
        "searcher": searcher.state,
        "ahead": searcher.ahead,
    }
    return json.dumps(data, separators=(",", ":"))


def load(state: State, text: str, take: Callable[[Mapping[str, Any]], None]) -> Searcher | None:
    """Bring a new state to what the snapshot says, and have `take` give the searcher its own; return that.

    None, and nothing has changed, where the snapshot is not usable: also where the code of the scheduler or of the
    searcher has changed so that it does not know the state that it gave then.
    """
    data = json.loads(text)
    if data.get("version") != VERSION or not hasattr(state.scheduler, "load_state"):
        return None
    try:
        state.scheduler.load_state(data["scheduler"])
        take(data["searcher"])
    except Exception as error:
        LOGGER.warning("a snapshot is of no use any more, for its state was refused: %r; the log is read", error)
        state.begin()
        return None
    for name in _PLAIN_STATE:
        setattr(state, name, data["state"].get(name, getattr(state, name)))  # a former release lacks some
    if "spending" in data:  # not in one of a former release, which knew no limit on it
        state.spending.load(data["spending"])
    supply, saved = state.supply, data["supply"]
    for name in _PLAIN_SUPPLY:
        setattr(supply, name, saved[name])
    supply.asked = dict.fromkeys(saved["asked"])
    supply.ordinary = Resources(**saved["ordinary"])
    if data["best"]:
        value, number, step, config = data["best"]
        state.best = Best(value, number, step, from_json(config))
    # One of a former release does not say what the first trials had in common.
    state.first = FirstTrials(**data.get("first", {"differ": True, "good": data["best"] is not None}))
    state.ending = Ending(status=data["ending"][0], reason=data["ending"][1]) if data["ending"] else None
    state.finished = Finish(status=data["finished"][0], reason=data["finished"][1]) if data["finished"] else None
    state.ledger.resize(data["capacity"])
    state.ledger.note_peak(data.get("peak", ()) or data["capacity"])  # a former release did not note it
    state.shelf.holders = Counter(data["holders"])
    for entry in data["trials"]:
        _load_trial(state, entry, data["nodes"])
    state.placed = {int(number): None for number in data["nodes"]}  # in the order in which they got their places
    state.counts = Counter({TrialStatus(status): count for status, count in data["counts"].items()})
    state.queue.refit()
    for number, elapsed in data["heard"]:
        state.heard[number] = elapsed
    state.returning = dict.fromkeys(data.get("returning", ()))
    for number, clone, *rest in data["awaiting"]:  # one of a former release does not say the step
        verdict = verdict_from_data(clone)
        assert isinstance(verdict, Clone)
        state.awaiting[number] = Awaited(verdict, *(rest or (0,)))
        if state.trials[number].status is TrialStatus.PENDING:  # it waits for that before it waits for a place
            state.queue.discard(state.trials[number])
    return Searcher(data["searcher"], data["ahead"])


def _trial_to_data(trial: Trial) -> dict[str, Any]:
    """Return what differs from a new trial: of a promotion, nearly all wait in their first state but one."""
    data: dict[str, Any] = {}
    for name in _PLAIN_TRIAL:
        value = getattr(trial, name)
        if value != _NEW[name]:
            data[name] = value
    data["config"] = to_json(trial.config)
    if trial.configs:
        data["configs"] = [[step, to_json(config)] for step, config in trial.configs]
    data["status"] = trial.status.value
    data["resources"] = resources_to_data(trial.resources)
    data["resize"] = resources_to_data(trial.resize) if trial.resize else None
    data["last"] = [trial.last.step, trial.last.metrics, trial.last.time] if trial.last else None
    if trial.again:
        data["again"] = trial.again
    if trial.fresh:
        data["fresh"] = [ref_to_list(ref) for ref in trial.fresh]
    data["checkpoints"] = [[kept.step, ref_to_list(kept.ref), kept.value] for kept in trial.checkpoints]
    return data


def _load_trial(state: State, data: dict[str, Any], nodes: Mapping[str, Any]) -> None:
    values = {name: data[name] for name in _PLAIN_TRIAL if name in data}
    for name in ("configs", "rungs", "unsaved", "history"):
        values[name] = [tuple(entry) for entry in data.get(name, ())]
    values["config"] = from_json(values["config"])
    values["configs"] = [(step, from_json(config)) for step, config in values["configs"]]
    trial = Trial(
        status=TrialStatus(data["status"]),
        resources=Resources(**data["resources"]),
        resize=Resources(**data["resize"]) if data["resize"] else None,
        last=Report(*data["last"]) if data["last"] else None,
        again=tuple(data.get("again", ())),
        fresh=[ref_from_list(ref) for ref in data.get("fresh", ())],
        checkpoints=[Kept(step, ref_from_list(ref), value) for step, ref, value in data["checkpoints"]],
        **values,
    )
    state.trials[trial.number] = trial
    if trial.status.placed:
        state.ledger.hold(trial.number, trial.resources, nodes[str(trial.number)])
        state.spending.hold(trial.number, trial.resources)
    elif trial.status is TrialStatus.PENDING:
        state.queue.add(trial)
    elif trial.status is TrialStatus.PAUSED:
        state.queue.add_paused(trial)
