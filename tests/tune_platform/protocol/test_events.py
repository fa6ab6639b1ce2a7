"""Events are written and read back unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import plain
from tune_platform.protocol.events import (
    EVENTS,
    CapacityChanged,
    Event,
    Exhausted,
    Failed,
    Interrupted,
    Reported,
    Requested,
    Resumed,
    Saved,
    Started,
    Suggested,
    Ticked,
    from_record,
    to_record,
)
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.resources import Resources

REF = CheckpointRef(3, 7, "memory://a/ü", 12)
EMPTY = Reported(time=2.0, trial=3, attempt=1, reports=(), done=True)
BATCH = Reported(
    time=3.0,
    trial=3,
    attempt=2,
    reports=(Report(1, {"loss": 0.5}, 2.5), Report(2, {"loss": 0.25}, 2.75)),
    saved=(REF,),
    worker="w",
)
EXAMPLES: list[Event] = [
    CapacityChanged(time=1.5, nodes=({"cpu": 2.0}, {})),
    Suggested(time=0.0, trial=0, config={"x": 1, "deep": {"y": [1, 2]}}, origin="start", memo={"a": None}),
    Suggested(time=0.0, trial=4, config={}),
    Suggested(
        time=0.0,
        trial=5,
        config={},
        resources=Resources(cpu=2.0, custom={"disk": 1.0}, workers=2, strategy="SPREAD"),
        cost=0.25,
    ),
    Suggested(time=0.0, trial=6, config={}, problem="resources: the function of the config raised KeyError('x')"),
    Exhausted(time=2.0, reason="done", failed=True),
    EMPTY,
    BATCH,
    Saved(time=1.0, trial=3, attempt=1, checkpoint=REF),
    Saved(time=1.0, trial=3, attempt=1, checkpoint=None),
    Failed(time=1.0, trial=1, attempt=3, cause="exception", message="m", traceback="t", fatal=True),
    Requested(time=1.0, request=1, action="stop"),
    Requested(time=1.0, request=2, action="enqueue", trial=3, data={"config": {"x": 1}}),
    Interrupted(time=9.0),
    Resumed(time=9.0, retry_failed=True),
    Ticked(time=9.5),
    Started(time=2.0, trial=3, attempt=1, worker="w"),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_round_trip(event: Event) -> None:
    kind, trial, data = to_record(event)
    reports = event.reports if isinstance(event, Reported) else ()
    assert from_record(event.time, kind, trial, plain(data), reports) == event


def test_every_kind_has_an_example() -> None:
    assert {type(event) for event in EXAMPLES} == set(EVENTS.values())
    assert all(kind == cls.kind for kind, cls in EVENTS.items())


@given(
    st.floats(0, 1e10),
    st.integers(0, 10**6),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()),
)
def test_round_trip_of_any_config(time: float, trial: int, config: dict[str, Any]) -> None:
    event = Suggested(time=time, trial=trial, config=config, memo=config)
    kind, number, data = to_record(event)
    assert from_record(time, kind, number, plain(data)) == event


def test_a_batch_leaves_its_reports_to_their_table() -> None:
    _, _, data = to_record(BATCH)
    assert (data["first"], data["last"]) == (1, 2)
    assert "reports" not in data
    assert to_record(EMPTY)[2] == {"done": True, "attempt": 1}


def test_step_is_always_a_value() -> None:
    report = Report(4, {"loss": 1.0, "training_iteration": 9}, 0.0)
    assert [report.value(name) for name in ("loss", "step", "training_iteration", "x")] == [1.0, 4, 9, None]
