"""Listeners look at what is committed, and can change and harm nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import Scenario
from tune_platform.engine.view import RunView
from tune_platform.protocol.effects import EFFECTS, Effect, Launched, Moved
from tune_platform.protocol.events import Event, Reported


def test_listeners_see_what_is_committed() -> None:
    run = Scenario(trials=3).build()
    seen: list[str] = []

    def listener(view: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        assert len(run.log.rows) == run.runner.seq
        seen.extend(event.kind for event in events)
        seen.extend(effect.kind for effect in effects)
        for event in events:
            if isinstance(event, Reported) and event.done:
                trial = view.trial(event.trial)
                assert trial is not None, "forgotten before anyone could look"
                assert (trial.ended, trial.placed, trial.status) == (True, False, "COMPLETED")

    run.runner._listeners = [listener]
    run.runner.start()
    run.drive()
    assert seen == [row.kind for row in run.log.rows]
    assert set(seen) & set(EFFECTS)


def test_what_a_view_shows() -> None:
    run = Scenario(trials=3, scheduler="stopping", batch=1, settings={"keep_last": 2}).build()
    views: list[dict[str, Any]] = []

    def listener(view: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        views.append({"counts": view.counts, "elapsed": view.elapsed, "finished": view.finished, "best": view.best})
        state = run.controller.state
        assert view.settings is run.controller.settings
        assert view.describe_scheduler() == run.controller.scheduler.describe()
        for number, trial in state.trials.items():
            look = view.trial(number)
            assert look is not None
            assert (look.number, dict(look.config), look.status, look.reason, look.attempt, look.step, look.last) == (
                number, trial.config, trial.status.value, trial.reason, trial.attempt, trial.step, trial.last,
            )  # fmt: skip
            assert (look.best, look.resources, look.ended, look.placed) == (
                trial.best, trial.resources, trial.status.final, trial.status.placed,
            )  # fmt: skip
        assert view.trial(99) is None

    run.runner._listeners = [listener]
    run.runner.start()
    finish = run.drive()
    assert views[0]["counts"] == {}
    assert views[-1]["finished"] == finish
    assert sum(views[-1]["counts"].values()) == 3
    assert views[-1]["best"].value == min(row.best or 9.0 for row in run.log.trials.values())
    elapsed = [view["elapsed"] for view in views]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] > 1.0


def attributes(look: Any) -> list[str]:
    return [name for name in dir(type(look)) if not name.startswith("_")]


def test_nothing_can_be_set() -> None:
    run = Scenario(trials=2).build()
    tried: list[str] = []

    def listener(view: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Launched) and (look := view.trial(effect.trial)) is not None:
                for thing in (view, look):
                    for name in [*attributes(thing), "anything"]:
                        with pytest.raises(AttributeError):
                            setattr(thing, name, None)
                        tried.append(name)
                with pytest.raises(TypeError):
                    look.config["x"] = 5  # type: ignore[index]
                with pytest.raises(AttributeError):
                    effect.trial = 7  # type: ignore[misc]

    run.runner._listeners = [listener]
    run.runner.start()
    run.drive()
    assert {"status", "config", "counts", "settings", "anything"} <= set(tried)
    assert run.log.text() == Scenario(trials=2).run().log.text()


def test_what_a_view_gives_away_is_a_copy() -> None:
    """Clearing the counts, or a nested value of a config, changes nothing."""
    run = Scenario(trials=2, choices={"deep": [{"a": [1]}]}).build()

    def listener(view: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        view.counts.clear()
        for number in range(2):
            if (look := view.trial(number)) is not None:
                look.config["deep"]["a"].append(2)

    run.runner._listeners = [listener]
    run.runner.start()
    run.drive()
    assert {str(row.config["deep"]) for row in run.log.trials.values()} == {"{'a': [1]}"}
    assert sum(run.controller.state.counts.values()) == 2


def test_one_that_raises_is_told_of_once_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    run = Scenario(trials=3).build()
    heard: list[int] = []

    def faulty(view: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        if any(isinstance(effect, Moved) for effect in effects):
            raise RuntimeError("no screen")

    def other(view: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        heard.append(len(events))

    run.runner._listeners = [faulty, other]
    run.runner.start()
    run.drive()
    assert run.log.text() == Scenario(trials=3).run().log.text()
    (record,) = [record for record in caplog.records if record.name == "tune_platform"]
    assert "faulty" in record.getMessage()
    assert "is not called any more; the search goes on" in record.getMessage()
    assert record.exc_info is not None
    assert len(heard) == len(run.log.commits)
    assert run.runner._listeners == [other]
