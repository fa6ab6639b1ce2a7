"""A search whose first trials all fail alike is given up, and one without a good trial is never called finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import Scenario
from tests.tune_platform.engine.play import Play
from tune_platform import Budget, SearchSpec, report, resume, run, uniform
from tune_platform.backends.simulated import Faults
from tune_platform.engine import snapshot
from tune_platform.engine.recovery import recover
from tune_platform.protocol.events import Failed, Resumed
from tune_platform.schedulers import ASHA


def fail(play: Play, number: int, message: str) -> None:
    attempt = play.trial(number).attempt
    play.do(Failed(time=play.time, trial=number, attempt=attempt, cause="exception", message=message))


def started(cpus: float = 2.0, **options: Any) -> Play:
    play = Play(nodes=({"cpu": cpus},), **{"fail_alike": 3, **options})
    for number in range(8):
        play.suggest(number, x=number)
    return play


@pytest.mark.parametrize(
    ("cpus", "options", "trials"),
    [(1.0, {}, 3), (2.0, {}, 3), (5.0, {}, 5), (5.0, {"max_concurrent": 4}, 4), (5.0, {"max_concurrent": 1}, 3)],
)
def test_the_same_error_in_all_first_trials_ends_the_search(cpus: float, options: Any, trials: int) -> None:
    play = started(cpus, **options)
    for number in range(trials):
        assert play.finished() is None
        fail(play, number, f"ValueError: no data\nline {number}")
    finish = play.finished()
    assert finish is not None
    assert finish.status == "failed"
    assert finish.reason == (
        f"all of the first {trials} trials failed with the same error: exception: ValueError: no data. "
        "Mend it and resume; or give budget.failures, a number of failed trials that the search is to survive"
    )


def test_numbers_in_an_error_make_no_other_error_of_it() -> None:
    texts = [
        "RuntimeError: 8 rows for <Model object at 0x7f1880ab7060> and lr 0.01 (/a/train.py:3)",
        "RuntimeError: 16 rows for <Model object at 0x7f67ddbcd6c0> and lr -3.2e-05 (/a/train.py:3)",
        "RuntimeError: 9 rows for <Model object at 0x7f67ddbcd000> and lr 1 (/a/train.py:3)",
    ]
    for last in (texts[2], texts[2].replace("and lr", "with lr")):
        play = started()
        for number, text in enumerate([*texts[:2], last]):
            fail(play, number, text)
        assert (play.finished() is not None) == (last == texts[2])


def test_another_error_or_a_trial_that_ends_well_makes_it_go_on() -> None:
    play = started()
    fail(play, 0, "ValueError: no data")
    fail(play, 1, "ValueError: no labels")
    for number in range(2, 7):
        fail(play, number, "ValueError: no data")
    assert play.finished() is None
    play = started()
    play.report(0, 1.0, done=True)
    for number in range(1, 7):
        fail(play, number, "ValueError: no data")
    assert play.finished() is None
    play = started(fail_alike=0)
    for number in range(7):
        fail(play, number, "ValueError: no data")
    assert play.finished() is None


@pytest.mark.parametrize("over", [True, False])
def test_after_it_is_over_a_resume_counts_anew_and_before_it_does_not(over: bool) -> None:
    play = started(fail_alike=3, retries={})
    for number in range(3 if over else 2):
        fail(play, number, "bang")
    assert (play.finished() is not None) == over
    play.do(Resumed(time=0.0, retry_failed=False))
    assert play.state.first.count == (0 if over else 2)
    play.do(Resumed(time=0.0, retry_failed=True))
    assert play.state.first.count == 0


@pytest.mark.parametrize("value", [None, 1.0])
def test_a_search_without_one_good_trial_has_failed(value: float | None) -> None:
    """Also where one that failed had a value, and where one that ended well had none."""
    play = Play(num_samples=2)
    play.suggest(0)
    play.suggest(1)
    if value is not None:
        play.report(0, value)
    play.fail(0)
    play.report(1, float("nan"), done=True)
    finish = play.finished()
    assert finish is not None
    assert finish.status == "failed"
    assert finish.reason == (
        "all 2 trials are done, and none has a value of 'loss' and ended well; the last error: exception: bang"
    )


@pytest.mark.parametrize("choice", ["prune", "ignore"])
def test_of_several_metrics_all_count(tmp_path: Path, choice: Any) -> None:
    for bound, status in ((2.0, "failed"), (0.5, "finished")):

        def train(config: dict[str, Any], bound: float = bound) -> None:
            report({"a": 1.0, "b": float("nan") if config["x"] < bound else 2.0})

        spec = SearchSpec(
            trainable=train, param_space={"x": uniform(0, 1)}, metric=["a", "b"], mode="min", searcher="random",
            num_samples=4, backend="inline", storage=str(tmp_path), on_bad_metric=choice, progress="off", seed=1,
        )  # fmt: skip
        results = run(spec)
        assert results.status == status
        assert bool(results.pareto()) == (status == "finished")


def test_one_good_trial_is_enough() -> None:
    play = Play(num_samples=2)
    play.suggest(0)
    play.suggest(1)
    play.fail(0)
    play.report(1, 1.0, done=True)
    finish = play.finished()
    assert finish is not None
    assert (finish.status, finish.reason) == ("finished", "all 2 trials are done")


def test_it_ends_the_same_wherever_the_log_is_cut() -> None:
    scenario = Scenario(
        trials=9, nodes=({"cpu": 2.0},), faults=Faults(exception=1.0), settings={"fail_alike": 3}, batch=1
    )  # the message of each is "injected at step 1"
    whole = scenario.run()
    assert whole.controller.finished is not None
    assert "all of the first 3 trials failed with the same error" in whole.controller.finished.reason
    for seq in range(len(whole.log.rows)):
        again = scenario.build(whole.log.cut(seq))
        recover(again.runner)
        again.drive()
        assert again.log.text() == whole.log.text(), f"cut after row {seq}"


def test_it_is_in_a_snapshot_and_an_older_one_has_nothing_of_it() -> None:
    play = Play(ASHA(max=9), fail_alike=3)
    play.suggest(0)
    fail(play, 0, "bang")
    text = snapshot.to_text(play.state, snapshot.Searcher({}))
    assert text is not None
    fresh = Play(ASHA(max=9), fail_alike=3).state
    assert snapshot.load(fresh, text, lambda state: None) is not None
    assert fresh.first == play.state.first
    assert fresh.first.count == 1
    older = json.loads(text)
    del older["first"]
    assert snapshot.load(fresh, json.dumps(older), lambda state: None) is not None
    assert fresh.first.differ
    assert not fresh.first.good


# ------------------------------------------------------------------------------- as a user meets it


def broken(config: dict[str, Any]) -> None:
    raise RuntimeError("no such data set")


def of(storage: Path, trainable: Any = broken, **options: Any) -> SearchSpec:
    return SearchSpec(trainable=trainable, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=9,
                      storage=str(storage), backend="inline", name="first", **options)  # fmt: skip


def test_by_default_three_trials_are_enough(tmp_path: Path) -> None:
    results = run(of(tmp_path))
    assert (results.status, results.counts["FAILED"]) == ("failed", 3)
    assert "exception: RuntimeError: no such data set" in results.row().reason
    # Mended, it goes on where it was.
    again = resume("first", storage=tmp_path, spec=of(tmp_path))
    assert (again.status, again.counts["FAILED"]) == ("failed", 6)


@pytest.mark.parametrize(("failures", "trials"), [(9, 9), (4, 5), (0, 1)])
def test_a_number_of_failures_is_kept_as_it_is(tmp_path: Path, failures: int, trials: int) -> None:
    results = run(of(tmp_path, budget=Budget(failures=failures)))
    assert (results.status, results.counts["FAILED"]) == ("failed", trials)
