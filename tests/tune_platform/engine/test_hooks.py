"""Callbacks hear of everything once, after its commit, and can harm nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support import Scenario
from tune_platform.callbacks import HOOKS, Callback
from tune_platform.engine.hooks import Hooks
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.events import Saved
from tune_platform.protocol.reports import CheckpointRef


class Recorder(Callback):
    """Notes what it hears; `raises` names methods that raise, a call takes `takes` seconds of a made-up clock."""

    def __init__(self, raises: tuple[str, ...] = (), takes: float = 0.0) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.raises, self.takes = raises, takes
        self.now = 0.0

    def note(self, name: str, what: Any) -> None:
        self.heard.append((name, what))
        self.now += self.takes
        if name in self.raises:
            raise SystemExit(3) if name == "on_trial_end" else ValueError(f"{name} is broken")

    def on_start(self, run: Any) -> None:
        self.note("on_start", (run.name, run.counts))

    def on_suggest(self, run: Any, trial: Any) -> None:
        self.note("on_suggest", (trial.number, dict(trial.config)))

    def on_report(self, run: Any, trial: Any, report: Any) -> None:
        self.note("on_report", (trial.number, report.step))
        with pytest.raises(TypeError):
            report.metrics["loss"] = 0.0

    def on_checkpoint(self, run: Any, checkpoint: Any) -> None:
        self.note("on_checkpoint", (checkpoint.trial, checkpoint.step))

    def on_trial_end(self, run: Any, trial: Any) -> None:
        self.note("on_trial_end", (trial.number, trial.status, trial.reason, trial.step))

    def on_finish(self, run: Any, finish: Any) -> None:
        self.note("on_finish", (finish.status, finish.reason))


def play(hooks: Hooks, **options: Any) -> Any:
    run = Scenario(trials=3, **options).build()
    run.runner._listeners = [hooks]
    run.runner.start()
    hooks.finish(run.drive())
    return run


def test_each_thing_is_told_once_and_in_order() -> None:
    recorder = Recorder()
    run = play(Hooks([recorder]), scheduler="stopping", checkpoint_every=2)
    heard = recorder.heard
    assert heard[0][0] == "on_start"
    assert heard[-1][0] == "on_finish"
    assert {name for name, _ in heard} == set(HOOKS)
    rows = run.log.rows
    suggested = [(row.trial, row.data["config"]) for row in rows if row.kind == "suggested"]
    assert [what for name, what in heard if name == "on_suggest"] == suggested
    reports = [(report.trial, report.step) for report in run.log.reports.values()]
    assert [what for name, what in heard if name == "on_report"] == reports
    ends = [what for name, what in heard if name == "on_trial_end"]
    assert sorted(number for number, *_ in ends) == [0, 1, 2]
    assert all(status in ("COMPLETED", "STOPPED") and reason for _, status, reason, _ in ends)
    for number, _, _, step in ends:  # nothing comes of it afterwards
        assert max(at for trial, at in reports if trial == number) == step
        after = heard[heard.index(next(each for each in heard if each[0] == "on_trial_end" and each[1][0] == number)) :]
        assert not [what for name, what in after if name == "on_report" and what[0] == number]


def test_an_error_is_told_once_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound, alone = Recorder(raises=("on_report", "on_trial_end", "on_finish")), Recorder(), Recorder()
    run = play(Hooks([broken, sound]))
    other = play(Hooks([alone]))
    assert run.log.rows == other.log.rows
    assert sound.heard == alone.heard == broken.heard  # it is called again, and so are the others
    told = [record for record in caplog.records if record.name == "tune_platform"]
    assert [record.getMessage().split(" ")[0] for record in told] == [
        "Recorder.on_report", "Recorder.on_trial_end", "Recorder.on_finish",
    ]  # fmt: skip
    assert all(record.levelno == logging.WARNING for record in told)
    assert "ValueError: on_report is broken" in caplog.text
    assert "in on_report" in caplog.text  # the traceback


def test_a_slow_one_is_told_of_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    slow, quick = Recorder(takes=2.0), Recorder()
    clock = {"now": 0.0}

    def now() -> float:
        clock["now"] += 0.01
        return clock["now"] + slow.now

    run = play(Hooks([slow, quick], clock=now))
    assert slow.heard == quick.heard
    assert len([1 for name, _ in slow.heard if name == "on_report"]) == len(run.log.reports)
    told = [record.getMessage() for record in caplog.records if "has taken" in record.getMessage()]
    assert told[0].startswith("the callback Recorder has taken 6 s, ")
    calls = len(slow.heard)
    assert 1 < len(told) < 2 + calls.bit_length()  # again when it has doubled, not with every call
    assert all(" 9" in text for text in told)  # over 90 % of the time


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("checkpoints/trial-00000/step-1", "/results/digits/checkpoints/trial-00000/step-1"),
        ("/scratch/step-1", "/scratch/step-1"),
        ("s3://bucket/step-1", "s3://bucket/step-1"),
    ],
)
def test_a_checkpoint_is_told_by_where_it_lies(uri: str, told: str) -> None:
    uris: list[str] = []

    class Uris(Callback):
        def on_checkpoint(self, run: Any, checkpoint: Any) -> None:
            uris.append(checkpoint.uri)

    run = Scenario().build().runner
    saved = Saved(time=0.0, trial=0, attempt=1, checkpoint=CheckpointRef(0, 1, uri, 10))
    Hooks([Uris()], folder="/results/digits")(run.view, [saved], [])
    assert uris == [told]


def test_without_a_start_there_is_no_finish() -> None:
    recorder = Recorder()
    Hooks([recorder]).finish(Finish(status="failed", reason="Ray cannot be started"))
    assert recorder.heard == []
