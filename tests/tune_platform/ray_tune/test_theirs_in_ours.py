"""Ray Tune's searchers and schedulers, and users' own for it, in a search of ours."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    ResourceChangingScheduler,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater, Searcher
from ray.tune.search.optuna import OptunaSearch

from tune_platform import SearchSpec, SpecError, choice, load, loguniform, ray_tune, report, resume, run, uniform, when
from tune_platform.errors import SearcherError
from tune_platform.protocol.scheduler import Scheduler
from tune_platform.protocol.searcher import Searcher as OurSearcher
from tune_platform.ray_tune import as_searcher
from tune_platform.registry import make_scheduler, make_searcher
from tune_platform.schedulers import PBT
from tune_platform.space import Space
from tune_platform.testing.schedulers import SchedulerContract
from tune_platform.testing.searchers import SearcherContract


class Remembers(Searcher):  # type: ignore[misc]
    """Somebody's own: near the best that it has heard of, by the generator of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, float] = {}
        self.best: tuple[float, float] | None = None
        self.ends: list[bool] = []

    def set_search_properties(self, metric: str, mode: str, config: dict[str, Any], **_: Any) -> bool:
        self._metric, self._mode = metric, mode
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        around = self.best[1] if self.best else 0.0
        self.points[trial_id] = around + np.random.normal() + random.random()  # noqa: NPY002
        return {"x": np.float64(self.points[trial_id])}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.ends.append(error)
        point = self.points.pop(trial_id)
        if result and (self.best is None or result[self._metric] < self.best[0]):
            self.best = (result[self._metric], point)


class TestOptunasOfRayTune(SearcherContract):
    seeded = False  # its generator has the seed that it was made with

    def make_searcher(self) -> OurSearcher:
        return make_searcher(OptunaSearch(seed=3))

    def make_conditional_space(self) -> Any:
        pytest.skip("Ray Tune's searchers take no conditional space")

    def make_constrained_space(self) -> Any:
        pytest.skip("Ray Tune's searchers take no constraints")


class TestHyperbandOfRayTune(SchedulerContract):
    def make_scheduler(self) -> Scheduler:
        return make_scheduler(HyperBandScheduler(max_t=9, reduction_factor=3))


@pytest.mark.slow
class TestAshaOfRayTune(SchedulerContract):
    def make_scheduler(self) -> Scheduler:
        return make_scheduler(ASHAScheduler(max_t=9, grace_period=1, reduction_factor=3, brackets=2))


@pytest.mark.slow
class TestMedianOfRayTune(SchedulerContract):
    def make_scheduler(self) -> Scheduler:
        return make_scheduler(MedianStoppingRule(grace_period=1, min_samples_required=2))


class StopsTheWide(FIFOScheduler):  # type: ignore[misc]
    """Somebody's own."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        assert trial in tune_controller.get_live_trials()
        wide = trial.config["x"] > 0 and result["training_iteration"] == 2
        return str(TrialScheduler.STOP if wide else TrialScheduler.CONTINUE)


def train(config: dict[str, Any]) -> None:
    for step in range(1, 5):
        report({"loss": (config["x"] - 1) ** 2 + 1 / step})


def spec_of(tmp_path: Path, **more: Any) -> SearchSpec:
    given = {
        "name": "it", "trainable": train, "param_space": {"x": uniform(-2, 3)}, "metric": "loss", "mode": "min",
        "num_samples": 12, "scheduler": "fifo", "backend": "inline", "storage": str(tmp_path), "progress": "off",
    }  # fmt: skip
    return SearchSpec(**{**given, **more})


def test_a_searcher_of_somebodys_own_learns_and_goes_on_exactly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole = run(spec_of(tmp_path / "whole", searcher=Remembers()))
    assert len({trial.config["x"] for trial in whole}) == 12
    assert all(type(trial.config["x"]) is float for trial in whole)
    assert "Ray Tune's Remembers as it is" in caplog.text
    short: dict[str, Any] = {"tmp_path": tmp_path / "cut", "num_samples": 5}
    run(spec_of(**short, searcher=Remembers()))
    caplog.clear()
    again = spec_of(**short, searcher=Remembers())
    cut = resume("it", storage=tmp_path / "cut", spec=again, extend={"trials": 7})
    assert [trial.config for trial in cut] == [trial.config for trial in whole]
    assert "does not suggest again" not in caplog.text


class Draws(Remembers):
    """One whose generator nobody can seed."""

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.points[trial_id] = random.SystemRandom().random()
        return {"x": self.points[trial_id]}


def test_one_that_is_no_function_of_the_log_goes_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(spec_of(tmp_path, searcher=Draws(), num_samples=4))
    again = spec_of(tmp_path, searcher=Draws(), num_samples=4)
    found = resume("it", storage=tmp_path, spec=again, extend={"trials": 2})
    assert found.counts == {"COMPLETED": 6}
    assert "Draws does not suggest again what it had suggested (trial 0, 4 in all)" in caplog.text


def test_the_generators_of_the_process_stay_as_they_were(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = random.Random(1).random(), np.random.RandomState(1).random()
    searcher = make_searcher(Remembers())
    searcher.setup(Space({"x": uniform(0, 1)}), mode=["min"], seed=0)
    searcher.ask(0)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


@pytest.mark.parametrize("drop_in", [False, True])
def test_a_scheduler_of_somebodys_own(tmp_path: Path, drop_in: bool) -> None:
    if drop_in:
        grid = ray_tune.Tuner(
            train,
            param_space={"x": ray_tune.uniform(-2, 3)},
            tune_config=ray_tune.TuneConfig(metric="loss", mode="min", num_samples=12, scheduler=StopsTheWide()),
            run_config=ray_tune.RunConfig(storage_path=str(tmp_path), name="it", verbose=0),
            backend="inline",
        ).fit()
        assert grid.num_errors == 0
        found = load("it", storage=tmp_path)
    else:
        found = run(spec_of(tmp_path, scheduler=StopsTheWide(), searcher="random"))
    assert {(trial.config["x"] > 0, trial.status, trial.step) for trial in found} == {
        (True, "STOPPED", 2),
        (False, "COMPLETED", 4),
    }


def test_ray_tunes_asha_keeps_what_it_would_keep(tmp_path: Path) -> None:
    rule = ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2)
    found = run(spec_of(tmp_path, scheduler=rule, searcher="random"))
    theirs = ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2)
    theirs.set_search_properties("loss", "min")
    curves = found.curves()
    for number, trial in enumerate(found):  # inline runs one after the other: the same calls in the same order
        one = ray_trial(number)
        theirs.on_trial_add(None, one)
        for step, value in curves[number]:
            said = theirs.on_trial_result(None, one, {"training_iteration": step, "loss": value})
            assert (said == "STOP") == (step == trial.step and (trial.status == "STOPPED" or step == 4))


def ray_trial(number: int) -> Any:
    return SimpleNamespace(trial_id=str(number))


def test_what_changes_configs_is_ours() -> None:
    made = make_scheduler(PopulationBasedTraining("training_iteration", hyperparam_mutations={"x": [1, 2]}))
    assert isinstance(made, PBT)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"searcher": ConcurrencyLimiter(OptunaSearch(), 2)}, "ConcurrencyLimiter is not needed here: give the searc"),
        ({"searcher": Repeater(OptunaSearch())}, "Repeater is not needed here: report the mean"),
        ({"searcher": BasicVariantGenerator()}, "BasicVariantGenerator is not needed here: searcher='random'"),
        ({"searcher": as_searcher("tpe")}, "AsSearcher is a searcher of ours made for Ray Tune"),
        ({"scheduler": ResourceChangingScheduler()}, "ResourceChangingScheduler needs Ray Tune's own controller"),
        ({"scheduler": type("Mine", (PopulationBasedTraining,), {})(hyperparam_mutations={"x": [1]})}, "Mine needs"),
    ],
)
def test_what_makes_no_sense_here_is_refused_by_name(tmp_path: Path, part: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_of(tmp_path, **part)


def test_what_a_searcher_of_ray_tunes_cannot_search_is_refused(tmp_path: Path) -> None:
    for space, message in (
        ({"k": choice(["a", "b"]), "x": when(uniform(0, 1), {"k": "a"})}, "no conditional space"),
        ({"x": choice([{"y": 1}, {"y": 2}])}, "no conditional space|cannot search"),
    ):
        with pytest.raises(SpecError, match=message):
            run(spec_of(tmp_path, searcher=OptunaSearch(), param_space=space))
    with pytest.raises(SpecError, match="made with mode='max', the search has 'min'"):
        run(spec_of(tmp_path, searcher=OptunaSearch(metric="loss", mode="max"), param_space={"x": loguniform(1, 2)}))
    with pytest.raises(SpecError, match="made with metric='acc', the search has 'loss'"):
        run(spec_of(tmp_path, scheduler=ASHAScheduler(metric="acc", mode="min")))


class Waits(Remembers):
    """One that wants to hear of each trial before it suggests the next."""

    def suggest(self, trial_id: str) -> Any:
        return None if self.points else super().suggest(trial_id)


class Counts(Remembers):
    """One that counts by itself, as TuneBOHB does: paused trials too."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 1

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self.most = max_concurrent
        return True

    def suggest(self, trial_id: str) -> Any:
        return super().suggest(trial_id) if len(self.points) < self.most else None


def test_one_that_counts_by_itself_does_not_stand_in_the_way_of_pauses(tmp_path: Path) -> None:
    found = run(
        spec_of(tmp_path, searcher=Counts(), scheduler={"name": "hyperband", "max": 4}, max_concurrent=1, num_samples=9)
    )
    assert len(found.trials()) == 9
    assert found.status == "finished"


class Breaks(Remembers):
    def suggest(self, trial_id: str) -> Any:
        if trial_id != "00000":
            raise ValueError("no more")
        return super().suggest(trial_id)


def test_one_that_wants_fewer_trials_at_once_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = run(spec_of(tmp_path, searcher=Waits(), max_concurrent=1))
    assert found.counts == {"COMPLETED": 12}
    grid = ray_tune.Tuner(
        train,
        tune_config=ray_tune.TuneConfig(metric="loss", mode="min", num_samples=3, search_alg=Breaks()),
        run_config=ray_tune.RunConfig(storage_path=str(tmp_path), name="breaks", verbose=0),
        backend="inline",
    ).fit()
    assert len(grid) == 1
    assert "the search has ended early: the searcher TheirSearcher failed: ValueError: no more" in caplog.text
    searcher = make_searcher(Waits())
    searcher.setup(Space({"x": uniform(0, 1)}), mode=["min"], seed=0)
    searcher.ask(0)
    with pytest.raises(SearcherError, match=r"Waits has no suggestion now.*give max_concurrent"):
        searcher.ask(1)


def test_start_points_stand_beside_it(tmp_path: Path) -> None:
    found = run(spec_of(tmp_path, searcher=OptunaSearch(seed=1), start_points=[{"x": 0.5}], num_samples=4))
    assert found[0].config == {"x": 0.5}
    assert found.counts == {"COMPLETED": 4}


def test_constraints_on_other_metrics_are_refused(tmp_path: Path) -> None:
    searcher = Remembers()
    searcher._outcome_constraints = ["l2norm <= 1.25"]  # as AxSearch has them
    with pytest.raises(SpecError, match="Remembers has outcome_constraints"):
        spec_of(tmp_path, searcher=searcher)
