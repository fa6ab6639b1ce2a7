"""The drop-in Tuner: a script of Ray Tune's, with the import changed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import tune as theirs
from ray.tune import schedulers
from ray.tune.schedulers import pb2
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from tune_platform import ASHA, PB2, PBT, AsyncHyperBand, ExperimentError, HyperBand, MedianStopping, SpecError
from tune_platform import ray_tune as tune
from tune_platform.ray_tune.schedulers import scheduler_of
from tune_platform.ray_tune.searchers import search_of


def descend(config: dict[str, Any]) -> None:
    for step in range(1, 10):
        tune.report({"mean_loss": config["lr"] + 1 / step})


def breaks(config: dict[str, Any]) -> dict[str, float]:
    if config["x"] == 2:
        raise ValueError("two is bad")
    return {"score": config["x"]}


def says(config: dict[str, Any]) -> dict[str, float]:
    print("hello")  # noqa: T201
    return {"mean_loss": 1.0}


def tuner(tmp_path: Path, trainable: Any = descend, *, of: Any = tune, run: Any = None, **options: Any) -> tune.Tuner:
    config = {"metric": "mean_loss", "mode": "min", "num_samples": 8, **options}
    space = config.pop("param_space", {"lr": tune.loguniform(1e-4, 1.0)})
    where = of.RunConfig(storage_path=str(tmp_path), name="there", verbose=0, **(run or {}))
    return tune.Tuner(
        trainable, param_space=space, tune_config=of.TuneConfig(**config), run_config=where, backend="inline"
    )


@pytest.mark.parametrize("of", [tune, theirs])
@pytest.mark.parametrize("wanted", [True, False, "out.txt"])
def test_a_log_that_is_asked_for_is_told_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, of: Any, wanted: Any
) -> None:
    caplog.set_level("INFO", "tune_platform")
    tuner(tmp_path, says, of=of, num_samples=1, run={"log_to_file": wanted}).fit()
    assert ("RunConfig(log_to_file=...) is not needed" in caplog.text) == bool(wanted)
    assert (tmp_path / "there" / "trials" / "trial-00000" / "log.txt").read_text() == "hello\n"


@pytest.mark.parametrize("of", [tune, theirs])
def test_asha_by_ray_tunes_names(tmp_path: Path, of: Any) -> None:
    asha = schedulers.ASHAScheduler(grace_period=1, max_t=9, reduction_factor=3)
    results = tuner(tmp_path, of=of, scheduler=asha).fit()
    best = results.get_best_result()
    assert (len(results), results.num_errors, results.num_terminated) == (8, 0, 8)
    assert best.metrics["training_iteration"] == 9
    assert best.metrics["mean_loss"] == pytest.approx(best.config["lr"] + 1 / 9)
    assert min(result.metrics["training_iteration"] for result in results) == 1  # some were stopped at the first rung
    frame = results.get_dataframe()
    assert list(frame["config/lr"]) == [result.config["lr"] for result in results]
    assert list(best.metrics_dataframe["training_iteration"]) == list(range(1, 10))
    assert results.experiment_path == str(tmp_path / "there")
    assert Path(best.path).parent.parent == tmp_path / "there"


def test_a_failed_trial_is_an_error_of_the_grid(tmp_path: Path) -> None:
    space = {"x": tune.grid_search([1, 2, 3])}
    results = tuner(tmp_path, breaks, param_space=space, metric="score", mode="max", num_samples=1).fit()
    assert (results.num_errors, results.num_terminated) == (1, 2)
    assert "two is bad" in str(results.errors[0])
    assert results[1].error is not None
    assert results[1].metrics == {}
    assert results.get_best_result().config == {"x": 3}


def nested(config: dict[str, Any]) -> None:
    for step in range(3):
        tune.report({"mean_loss": 1.0, "val": {"acc": step, "top": {"5": 2}}, "train/acc": step})


def test_metrics_are_found_as_they_were_reported(tmp_path: Path) -> None:
    (result,) = tuner(tmp_path, nested, num_samples=1, metric="val/acc", mode="max").fit()
    metrics = result.metrics
    assert (metrics["val"]["acc"], metrics["val/acc"], metrics["val"]["top"]["5"], metrics["train/acc"]) == (2, 2, 2, 2)
    assert ("val" in metrics, "test" in metrics, metrics.get("test", 7)) == (True, False, 7)
    with pytest.raises(KeyError, match="test"):
        metrics["test"]
    frame = result.metrics_dataframe
    assert list(frame["val/acc"]) == [0, 1, 2]
    assert (frame["time_this_iter_s"] >= 0).all()
    assert frame["time_total_s"].is_monotonic_increasing


def returns(config: dict[str, Any]) -> float:
    return float(config["x"])


def yields(config: dict[str, Any]) -> Any:
    yield 7
    yield config["x"]


@pytest.mark.parametrize("trainable", [returns, yields])
@pytest.mark.parametrize("search", [None, OptunaSearch(seed=1)])
def test_a_number_without_a_name_is_what_is_optimised(tmp_path: Path, trainable: Any, search: Any) -> None:
    space = {"x": tune.choice([3, 1, 2])}
    grid = tuner(tmp_path, trainable, param_space=space, metric=None, mode="min", search_alg=search).fit()
    assert grid.num_errors == 0
    assert grid.get_best_result().metrics["_metric"] == min(result.config["x"] for result in grid)


def test_results_are_read_from_their_folders(tmp_path: Path) -> None:
    grid = tuner(tmp_path, nested, num_samples=2).fit()
    again = tune.Result.from_path(grid[1].path)
    assert (again.config, again.metrics) == (grid[1].config, grid[1].metrics)
    assert list(grid.get_dataframe()["logdir"]) == [result.path for result in grid]
    with pytest.raises(ExperimentError, match="the folder of no trial"):
        tune.Result.from_path(str(tmp_path))
    analysis = tune.ExperimentAnalysis(grid.experiment_path, default_metric="mean_loss", default_mode="min")
    assert [trial.config for trial in analysis.trials] == [result.config for result in grid]
    assert grid.filesystem.get_file_info(grid.experiment_path).is_file is False
    with pytest.raises(ExperimentError):
        tune.ExperimentAnalysis(str(tmp_path / "nowhere"))


def writes(config: dict[str, Any]) -> None:
    Path("model").mkdir()  # one folder of this name in each trial's own
    Path("model/x").write_text(str(config["x"]))
    tune.report({"score": config["x"]}, checkpoint=tune.Checkpoint.from_directory("model"))


@pytest.mark.parametrize("own", [True, False])
def test_a_trial_works_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    (tmp_path / "driver").mkdir()
    monkeypatch.chdir(tmp_path / "driver")
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", str(int(own)))
    space = {"x": tune.grid_search([1, 2])}
    grid = tuner(tmp_path, writes, param_space=space, num_samples=1, metric="score").fit()
    assert grid.num_errors == (0 if own else 1)  # in one folder the second finds that of the first
    for result in grid if own else []:
        assert Path(result.path, "model", "x").read_text() == str(result.config["x"])
        with result.checkpoint.as_directory() as folder:
            assert Path(folder, "x").read_text() == str(result.config["x"])
    assert Path.cwd() == tmp_path / "driver"


def test_the_first_failure_ends_all_where_that_is_asked_for(tmp_path: Path) -> None:
    fast = {"failure_config": theirs.FailureConfig(fail_fast=True)}
    space = {"x": tune.grid_search([2, 1, 1, 1])}
    results = tuner(
        tmp_path,
        breaks,
        param_space=space,
        metric="score",
        mode="max",
        num_samples=1,
        max_concurrent_trials=1,
        run=fast,
    ).fit()
    assert (results.num_errors, results.num_terminated) == (1, 0)


@pytest.mark.parametrize(("scope", "best"), [("last", 1), ("all", 1), ("avg", 2), ("last-5-avg", 2)])
def test_the_best_by_each_scope(tmp_path: Path, scope: str, best: int) -> None:
    def zigzag(config: dict[str, Any]) -> None:
        for value in [0, 9, 0, 0, 0, 0, 2] if config["x"] == 1 else [5, 5, 5, 5, 5, 5, 1]:
            tune.report({"score": value})

    space = {"x": tune.grid_search([1, 2])}
    results = tuner(tmp_path, zigzag, param_space=space, metric="score", mode="max", num_samples=1).fit()
    assert results.get_best_result(scope=scope).config == {"x": best}


def test_a_placement_group_of_one_bundle_is_what_a_trial_asks_for(tmp_path: Path) -> None:
    def one(config: dict[str, Any]) -> None:  # with_resources marks it for good
        tune.report({"mean_loss": 1.0})

    asked = theirs.PlacementGroupFactory([{"CPU": 2, "disk": 1}])
    made = tuner(tmp_path, tune.with_resources(one, asked))
    assert (made.spec.resources.cpu, made.spec.resources.custom) == (2.0, {"disk": 1.0})
    with pytest.raises(SpecError, match="a PlacementGroupFactory of 2 bundles"):
        tuner(tmp_path, tune.with_resources(one, theirs.PlacementGroupFactory([{"CPU": 1}, {"CPU": 1}])))


def test_without_a_metric_it_is_named_where_the_best_is_asked_for(tmp_path: Path) -> None:
    results = tuner(tmp_path, metric=None, mode=None, run={"stop": {"training_iteration": 2}}).fit()
    assert {result.metrics["training_iteration"] for result in results} == {2}
    best = results.get_best_result("mean_loss", "min")
    assert best.config["lr"] == min(result.config["lr"] for result in results)
    with pytest.raises(ValueError, match="needs a metric and a mode"):
        results.get_best_result()


def test_with_parameters_resources_and_sample_from(tmp_path: Path) -> None:
    def add(config: dict[str, Any], data: list[int]) -> None:
        tune.report({"mean_loss": config["double"] + len(data)})

    trainable = tune.with_resources(tune.with_parameters(add, data=[1, 2, 3]), {"cpu": 0.5})
    space = {"lr": tune.choice([4]), "double": tune.sample_from(lambda spec: spec.config.lr * 2)}
    made = tuner(tmp_path, trainable, param_space=space, num_samples=1)
    assert made.spec.resources.cpu == 0.5
    assert made.spec.check() == []  # no word on resources that are not read
    assert made.fit()[0].metrics["mean_loss"] == 11


class Length(theirs.Trainable):  # type: ignore[misc]
    def setup(self, config: dict[str, Any], data: list[int] | None = None) -> None:
        self.data = data or []

    def step(self) -> dict[str, Any]:
        return {"mean_loss": len(self.data), "done": True}


def sized(config: dict[str, Any], data: list[int], more: list[int]) -> None:
    tune.report({"mean_loss": len(data) + len(more)})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_with_parameters_where_ray_holds_them(tmp_path: Path) -> None:
    """They lie in Ray's store as soon as Ray is up, before the search is."""
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False)
    try:
        for at, made in enumerate(
            [
                tune.with_parameters(sized, data=[1, 2], more=[3]),
                tune.with_parameters(Length, data=[1, 2, 3]),
            ]
        ):
            where = tune.RunConfig(storage_path=str(tmp_path), name=str(at), verbose=0)
            (result,) = tune.Tuner(made, param_space={"x": 1}, run_config=where).fit()
            assert result.metrics["mean_loss"] == 3
    finally:
        ray.shutdown()


def test_a_registered_name(tmp_path: Path) -> None:
    theirs.register_trainable("descends", descend)
    assert len(tuner(tmp_path, "descends", num_samples=2).fit()) == 2
    with pytest.raises(SpecError, match=r"there is no trainable 'descend' \(did you mean 'descends'\?\).*rllib"):
        tuner(tmp_path, "descend")


def test_checkpoints_are_ray_tunes(tmp_path: Path) -> None:
    class Count(theirs.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.at = 0

        def step(self) -> dict[str, Any]:
            self.at += 1
            return {"mean_loss": -self.at, "should_checkpoint": self.at == 2}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            Path(checkpoint_dir, "at.txt").write_text(str(self.at))

    (result,) = tuner(tmp_path, Count, num_samples=1, run={"stop": {"training_iteration": 3}}).fit()
    with result.checkpoint.as_directory() as directory:
        assert Path(directory, "at.txt").read_text() == "2"
    assert [metrics["mean_loss"] for _, metrics in result.best_checkpoints] == [-2]


class Patience(theirs.Stopper):  # type: ignore[misc]
    """Ends all once any loss is below a limit, and a trial after its third report."""

    def __init__(self) -> None:
        self.good = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.good = self.good or result["mean_loss"] < 0.45
        return bool(result["training_iteration"] >= 3)

    def stop_all(self) -> bool:
        return self.good


@pytest.mark.parametrize("scheduler", [None, schedulers.ASHAScheduler(grace_period=2, max_t=9)])
def test_a_function_as_stop(tmp_path: Path, scheduler: Any) -> None:
    stop = {"stop": lambda trial_id, result: result["mean_loss"] < 0.9 and result["time_total_s"] >= 0}
    results = tuner(tmp_path, run=stop, scheduler=scheduler).fit()
    for result in results:
        losses = list(result.metrics_dataframe["mean_loss"])
        assert not any(loss < 0.9 for loss in losses[:-1])
    assert any(result.metrics["mean_loss"] < 0.9 for result in results)


def test_a_stopper_ends_a_trial_and_all(tmp_path: Path) -> None:
    space = {"lr": tune.grid_search([0.5, 0.1, 0.5, 0.5])}
    results = tuner(tmp_path, run={"stop": Patience()}, param_space=space, num_samples=1).fit()
    assert [result.metrics.get("training_iteration", 0) for result in results] == [3, 3, 0, 0]
    assert "ended all" in results.results.trial(3).reason


def test_a_limit_to_what_is_minimised_ends_a_trial_that_diverges(tmp_path: Path) -> None:
    def diverges(config: dict[str, Any]) -> None:
        for step in range(9):
            tune.report({"mean_loss": config["lr"] ** step})

    space = {"lr": tune.grid_search([0.5, 2.0])}
    stop = {"stop": {"mean_loss": 4, "training_iteration": 5}}
    results = tuner(tmp_path, diverges, param_space=space, num_samples=1, run=stop).fit()
    assert [result.metrics["training_iteration"] for result in results] == [5, 3]


def test_stoppers_that_are_conditions_here(tmp_path: Path) -> None:
    from ray.tune.stopper import MaximumIterationStopper, TimeoutStopper

    assert tuner(tmp_path, run={"stop": MaximumIterationStopper(2)}).spec.stop == {"step": 2}
    assert tuner(tmp_path, run={"stop": TimeoutStopper(60)}).spec.budget.time == 60


MAPPED: list[tuple[Any, type, dict[str, Any]]] = [
    (schedulers.ASHAScheduler(grace_period=2, max_t=50, reduction_factor=4), ASHA,
     {"min": 2, "max": 50, "eta": 4, "resource": "step"}),
    (schedulers.AsyncHyperBandScheduler(max_t=81, reduction_factor=3, brackets=3), AsyncHyperBand, {"max": 81}),
    (schedulers.HyperBandScheduler(max_t=27, time_attr="epoch"), HyperBand, {"max": 27, "eta": 3, "resource": "epoch"}),
    (schedulers.HyperBandForBOHB(max_t=9), HyperBand, {"max": 9, "resource": "step"}),
    (schedulers.MedianStoppingRule(grace_period=4, min_samples_required=2), MedianStopping,
     {"grace": 4, "min_samples": 2, "resource": "time_total_s"}),
    (schedulers.PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=3, hyperparam_mutations={"lr": random.random},
        quantile_fraction=0.3), PBT, {"interval": 3, "quantile": 0.3, "resource": "step"}),
    (pb2.PB2(time_attr="training_iteration", perturbation_interval=2, hyperparam_bounds={"lr": [0, 1]}), PB2,
     {"interval": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "options"), MAPPED)
def test_schedulers_of_the_same_rule(given: Any, kind: type, options: dict[str, Any]) -> None:
    made = scheduler_of(given)
    assert type(made) is kind
    assert {name: getattr(made, name) for name in options} == options


def test_searchers_of_the_same_model() -> None:
    limited = search_of(ConcurrencyLimiter(OptunaSearch(metric="a", mode="max", seed=3), max_concurrent=2))
    assert (limited.searcher, limited.max_concurrent, limited.metric, limited.seed) == ("tpe", 2, "a", 3)
    assert search_of(BasicVariantGenerator(points_to_evaluate=[{"lr": 1}])).start_points == ({"lr": 1},)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scheduler": schedulers.ResourceChangingScheduler()},
            "ResourceChangingScheduler needs Ray Tune's own controller",
        ),
        ({"run": {"storage_filesystem": object()}}, "storage_filesystem"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        tuner(tmp_path, **options)


def test_it_loads_ray_tune_only_when_it_is_used() -> None:
    code = "import sys; from tune_platform.ray_tune import Tuner, TuneConfig, RunConfig; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
