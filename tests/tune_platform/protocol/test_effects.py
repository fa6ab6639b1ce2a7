"""Effects are written and read back unchanged, also those of logs that lack what came later."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.support import plain
from tune_platform.protocol.effects import (
    EFFECTS,
    Asked,
    Awaits,
    Decided,
    Dropped,
    Effect,
    Ending,
    Finished,
    Launched,
    Moved,
    Regained,
    SupplyEnded,
    effect_from_record,
    effect_to_record,
    verdict_from_data,
)
from tune_platform.protocol.events import EVENTS
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.protocol.verdicts import Clone, Continue, Pause, Resize, Stop, Verdict
from tune_platform.resources import Resources

VERDICTS: list[Verdict] = [
    Continue(until=None, reason="on"),
    Continue(until=2.5, reason="on", save=True),
    Pause(reason="later"),
    Stop(reason="worst"),
    Stop(reason="best", completed=True),
    Clone(source=3, config={"x": [1, {"y": None}]}, until=4, reason="exploit", save=False),
    Resize(resources=Resources(cpu=0.5, gpu=1.0, custom={"disk": 2.0}, workers=4, strategy="SPREAD"), reason="wider"),
]
EXAMPLES: list[Effect] = [
    Asked(numbers=(1, 2, 9)),
    Launched(trial=0, attempt=2, nodes=(0, 3), until=None, save=True, resources=Resources()),
    Launched(trial=0, attempt=1, nodes=(1,), until=4, save=False, resources=Resources(cpu=2.0, gpu=0.5)),
    *(Decided(trial=0, step=0, verdict=verdict) for verdict in VERDICTS),
    *(Decided(trial=7, step=3, verdict=Stop(reason="r"), by=by) for by in ("person", "stop", "budget", "engine")),
    Awaits(trial=2, step=4, verdict=Clone(source=1, config={"x": 2}, until=6, reason="exploit")),
    Awaits(trial=2, step=4, verdict=Clone(source=1, config={"x": 2}, until=6, reason="exploit"), lost=3),
    Regained(trial=2, step=4, checkpoint=CheckpointRef(1, 3, "1/3", 7)),
    Moved(trial=0, status="FAILED", reason="exception: ü", kill=True),
    Moved(trial=4, status="PENDING", reason=""),
    Dropped(trial=0, uris=("a", "b")),
    SupplyEnded(),
    Ending(status="stopped", reason="a person stopped it"),
    Finished(status="finished", reason="done"),
]


@pytest.mark.parametrize("effect", EXAMPLES, ids=lambda effect: type(effect).__name__)
def test_round_trip(effect: Effect) -> None:
    kind, trial, data = effect_to_record(effect)
    assert effect_from_record(kind, trial, plain(data)) == effect


def test_every_kind_has_an_example_and_a_name_of_its_own() -> None:
    assert {type(effect) for effect in EXAMPLES} == set(EFFECTS.values())
    assert {type(effect.verdict) for effect in EXAMPLES if isinstance(effect, Decided)} == set(get_args(Verdict))
    assert all(kind == cls.kind for kind, cls in EFFECTS.items())
    assert not set(EFFECTS) & set(EVENTS)


def test_verdicts_of_former_logs() -> None:
    assert verdict_from_data({"verdict": "continue", "until": 3, "reason": "r"}) == Continue(until=3, reason="r")
    assert verdict_from_data({"verdict": "stop", "reason": "r"}) == Stop(reason="r")
    clone = {"verdict": "clone", "source": 1, "config": {}, "until": None, "reason": "r"}
    assert verdict_from_data(clone) == Clone(source=1, config={}, until=None, reason="r", save=True)


def test_a_verdict_of_a_later_release_is_named() -> None:
    with pytest.raises(ValueError, match="the verdict 'merge', which this release does not know"):
        verdict_from_data({"verdict": "merge", "reason": ""})
