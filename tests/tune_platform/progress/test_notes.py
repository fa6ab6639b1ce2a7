from __future__ import annotations

from tests.tune_platform.cli.conftest import TRACEBACK
from tests.tune_platform.progress.drive import Clock, Drive
from tune_platform.progress.notes import LONG_GAP, Notes, values_of, where
from tune_platform.progress.text import Differences
from tune_platform.protocol.events import Requested


def test_the_users_own_frame_is_named() -> None:
    assert where(TRACEBACK) == "train.py:31 in step"
    library = TRACEBACK.split("ValueError")[0] + '  File "/x/site-packages/torch/nn.py", line 7, in forward\n'
    assert where(library) == "train.py:31 in step"
    assert where("boom") == ""


def test_a_node_is_told_without_what_it_has_none_of() -> None:
    assert values_of({"cpu": 8, "gpu": 1, "memory": 15.43 * 2**30}) == "8 CPU, 1 GPU, 15.4 GiB of memory"
    assert values_of({"cpu": 0.5, "gpu": 0.0, "memory": 0.0}) == "0.5 CPU"
    assert values_of({"memory": 40 * 2**20}) == "40 MiB of memory"


def test_a_failure_is_told_once_then_counted() -> None:
    drive = Drive(Notes(Clock()).hear, trials=1, retries={"exception": 1000})
    told = [note.text for _ in range(100) for note in drive.fail(0)]
    assert told == [
        "trial 0 failed: ValueError: the loss exploded [train.py:31 in step]; tried again",
        "trial 0 failed: ValueError: the loss exploded [train.py:31 in step]; tried again (10 times so far)",
        "trial 0 failed: ValueError: the loss exploded [train.py:31 in step]; tried again (100 times so far)",
    ]
    assert [note.text for note in drive.fail(0, "other", "")] == ["trial 0 failed: other; tried again"]


def test_a_best_that_only_gets_better_is_not_told_each_time() -> None:
    clock = Clock()
    drive = Drive(Notes(clock).hear)
    (note,) = drive.report(0, 1, 1.0)
    assert note.text == "best so far: loss 1 by trial 0 at step 1"
    assert note.data["config"]["lr"] == 0.1
    clock.now += 2
    assert drive.report(0, 2, 0.9) == []
    assert [note.data["trial"] for note in drive.report(1, 1, 0.5)] == [1]
    clock.now += LONG_GAP
    assert [note.data["value"] for note in drive.report(1, 2, 0.25)] == [0.25]


def test_stops_are_told_ever_more_rarely() -> None:
    clock = Clock()
    drive = Drive(Notes(clock).hear, trials=200, stop={"step": 1})
    told = []
    for trial in range(200):
        told += [(trial, note.text) for note in drive.report(trial, 1, 1.0) if note.kind == "stop"]
        clock.now += 1
    assert [trial for trial, _ in told] == [0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181]
    assert told[0][1] == "trial 0 completed at step 1: step 1 reached the stop condition 1"
    assert told[2][1] == "trial 3 completed at step 1: step 1 reached the stop condition 1 (and 1 more)"


def test_a_persons_request_is_told() -> None:
    drive = Drive(Notes(Clock()).hear)
    (note, *_) = drive.turn(Requested(time=1.0, request=1, action="stop", trial=2))
    assert note.text == "a person asked: stop trial 2"


def test_constants_of_the_search_do_not_fill_the_line() -> None:
    seen = Differences()
    assert seen.text({"lr": 0.1, "net": {"depth": 2}}) == "lr 0.1, net/depth 2"  # nothing to tell it by yet
    seen.see({"lr": 0.2, "net": {"depth": 2}})
    assert seen.text({"lr": 0.1, "net": {"depth": 2}}) == "lr 0.1"
    assert seen.text({"lr": 0.1, "net": {"depth": 2, "width": 8}}) == "lr 0.1, net/width 8"  # conditional


def test_a_value_does_not_leave_its_line() -> None:
    seen = Differences()
    assert seen.text({"name": "a\nb\x1b[31m"}) == "name a b [31m"
    assert len(seen.text({"name": "x" * 10_000})) < 100
