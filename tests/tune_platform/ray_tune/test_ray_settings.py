"""Every setting that the installed Ray Tune has is mapped, refused by name, or so anyway: none is ignored."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ray import train as train_classes
from ray import tune as theirs
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from tune_platform import ASHA, SearchSpec, SpecError
from tune_platform import ray_tune as tune
from tune_platform.ray_tune.callbacks import RayCallbacks


def train(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["x"]}


class Quiet(theirs.ProgressReporter):  # type: ignore[misc]
    """Notes what it is asked and told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def setup(self, **info: Any) -> None:
        self.told.append((info["total_samples"], info["metric"], info["mode"]))

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return True

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        self.told.append(([trial.status for trial in trials], done))


def ours(spec: SearchSpec) -> Any:
    """The one that calls Ray Tune's callbacks."""
    (found,) = [each for each in spec.callbacks if isinstance(each, RayCallbacks)]
    return found


FILES = object()
REPORTER = Quiet()
CALLBACK = theirs.Callback()


def named(trial: Any) -> str:
    return "name"


def _checkpoint(name: str) -> Callable[[SearchSpec], Any]:
    return lambda spec: getattr(spec.checkpoint, name)


#: A value of each setting, and what of the spec it becomes; or the beginning of the message that refuses it.
Table = dict[str, tuple[Any, Any] | tuple[Any, Callable[[SearchSpec], Any], Any]]
TUNE: Table = {
    "mode": ("max", lambda spec: spec.mode, "max"),
    "metric": ("score", lambda spec: spec.metric, "score"),
    "search_alg": (OptunaSearch(seed=3), lambda spec: (spec.searcher, spec.seed), ("tpe", 3)),
    "scheduler": (ASHAScheduler(max_t=9), lambda spec: type(spec.scheduler), ASHA),
    "num_samples": (7, lambda spec: spec.num_samples, 7),
    "max_concurrent_trials": (2, lambda spec: spec.max_concurrent, 2),
    "time_budget_s": (timedelta(seconds=9), lambda spec: spec.budget.time, 9),
    "reuse_actors": (True, lambda spec: spec.reuse_workers, True),
    "trial_name_creator": (named, lambda spec: ours(spec)._names, named),
    "trial_dirname_creator": (named, lambda spec: ours(spec)._folders, named),
    "chdir_to_trial_dir": (False, r"TuneConfig\(chdir_to_trial_dir"),
}
RUN: Table = {
    "name": ("mine", lambda spec: spec.name, "mine"),
    "storage_path": ("/nowhere", lambda spec: str(spec.storage), "/nowhere"),
    "storage_filesystem": (FILES, r"RunConfig\(storage_filesystem"),
    "failure_config": (theirs.FailureConfig(max_failures=2), lambda spec: set(spec.retries.values()), {2}),
    "checkpoint_config": (theirs.CheckpointConfig(num_to_keep=2), _checkpoint("keep_last"), 2),
    "sync_config": (theirs.SyncConfig(sync_artifacts=True), r"SyncConfig\(sync_artifacts"),
    "verbose": (0, lambda spec: spec.progress, "off"),
    "stop": ({"training_iteration": 3}, lambda spec: spec.stop, {"step": 3}),
    "callbacks": ([CALLBACK], lambda spec: ours(spec)._callbacks, [CALLBACK]),
    "progress_reporter": (REPORTER, lambda spec: (ours(spec)._reporter, spec.progress), (REPORTER, "off")),
    "log_to_file": (True, lambda spec: spec.log_limit > 0, True),
    "local_dir": ("/nowhere", r"RunConfig\(local_dir"),
}
FAILURE: Table = {
    "max_failures": (-1, lambda spec: min(spec.retries.values()) > 1000, True),
    "fail_fast": (True, lambda spec: spec.budget.failures, 0),
}
CHECKPOINT: Table = {
    "num_to_keep": (3, _checkpoint("keep_last"), 3),
    "checkpoint_score_attribute": ("other", "CheckpointConfig.*checkpoint_score_attribute='other'"),
    "checkpoint_score_order": ("min", _checkpoint("keep_best"), None),
    "checkpoint_frequency": (4, _checkpoint("every"), 4),
    "checkpoint_at_end": (True, _checkpoint("at_end"), True),
}
OF_RUN: Table = {
    "name": RUN["name"],
    "metric": TUNE["metric"],
    "mode": TUNE["mode"],
    "stop": RUN["stop"],
    "time_budget_s": TUNE["time_budget_s"],
    "config": ({"x": 5}, lambda spec: spec.param_space, {"x": 5}),
    "resources_per_trial": ({"cpu": 3}, lambda spec: spec.resources.cpu, 3),
    "num_samples": TUNE["num_samples"],
    "storage_path": RUN["storage_path"],
    "storage_filesystem": RUN["storage_filesystem"],
    "search_alg": TUNE["search_alg"],
    "scheduler": ("asynchyperband", lambda spec: type(spec.scheduler), ASHA),
    "checkpoint_config": RUN["checkpoint_config"],
    "verbose": RUN["verbose"],
    "progress_reporter": RUN["progress_reporter"],
    "log_to_file": RUN["log_to_file"],
    "trial_name_creator": TUNE["trial_name_creator"],
    "trial_dirname_creator": TUNE["trial_dirname_creator"],
    "sync_config": RUN["sync_config"],
    "export_formats": (["h5"], r"tune.run\(export_formats"),
    "max_failures": (2, lambda spec: set(spec.retries.values()), {2}),
    "fail_fast": FAILURE["fail_fast"],
    "restore": ("/nowhere", r"tune.run\(restore"),
    "resume": ("PROMPT", r"tune.run\(resume='PROMPT'"),
    "resume_config": (FILES, r"tune.run\(resume_config"),
    "reuse_actors": TUNE["reuse_actors"],
    "callbacks": RUN["callbacks"],
    "max_concurrent_trials": TUNE["max_concurrent_trials"],
    "keep_checkpoints_num": (1, r"tune.run\(keep_checkpoints_num"),
    "checkpoint_score_attr": ("loss", r"tune.run\(checkpoint_score_attr"),
    "checkpoint_freq": (1, r"tune.run\(checkpoint_freq"),
    "checkpoint_at_end": (True, r"tune.run\(checkpoint_at_end"),
    "chdir_to_trial_dir": (True, r"tune.run\(chdir_to_trial_dir"),
    "local_dir": ("/nowhere", r"tune.run\(local_dir"),
}
#: Settings of a class of Ray Tune's, by the class, with our class and how it gets into a Tuner.
CLASSES: list[tuple[type, type, Table, Callable[[Any], dict[str, Any]]]] = [
    (theirs.TuneConfig, tune.TuneConfig, TUNE, lambda made: {"tune_config": made}),
    (theirs.RunConfig, tune.RunConfig, RUN, lambda made: {"run_config": made}),
    (theirs.FailureConfig, tune.FailureConfig, FAILURE,
     lambda made: {"run_config": tune.RunConfig(failure_config=made)}),
    (theirs.CheckpointConfig, tune.CheckpointConfig, CHECKPOINT,
     lambda made: {"run_config": tune.RunConfig(checkpoint_config=made)}),
]  # fmt: skip
EACH = [
    pytest.param(kind, put, name, wanted, id=f"{kind.__module__.split('.')[0]}-{kind.__name__}-{name}")
    for their, our, table, put in CLASSES
    for kind in (their, our)
    for name, wanted in table.items()
    if not (kind is their and name in ("local_dir", "chdir_to_trial_dir"))  # Ray Tune refuses them itself
]


def spec_of(**options: Any) -> SearchSpec:
    return tune.Tuner(train, param_space={"x": 1}, **options).spec


def holds(wanted: Any, make: Callable[[], SearchSpec]) -> None:
    if len(wanted) == 2:
        with pytest.raises(SpecError, match=wanted[1]):
            make()
    else:
        assert wanted[1](make()) == wanted[2]


@pytest.mark.parametrize(("their", "our", "table"), [each[:3] for each in CLASSES])
def test_every_field_is_looked_at(their: Any, our: Any, table: Table) -> None:
    public = {each.name for each in dataclasses.fields(their) if not each.name.startswith("_")}
    assert public == set(table)
    assert public == {each.name for each in dataclasses.fields(our)}


@pytest.mark.parametrize(("kind", "put", "name", "wanted"), EACH)
def test_a_setting_has_its_meaning_or_is_refused(kind: Any, put: Any, name: str, wanted: Any) -> None:
    options = {name: wanted[0], **({"checkpoint_score_order": "max"} if name == "checkpoint_score_attribute" else {})}
    holds(wanted, lambda: spec_of(**put(kind(**options))))


@pytest.mark.parametrize("name", ["tune_config", "run_config"])
def test_settings_of_another_kind_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=f"{name}={{'num_samples': 3}}.*is wanted"):
        spec_of(**{name: {"num_samples": 3}})


def test_ray_trains_classes_of_these_names_are_taken_as_ray_tune_takes_them(tmp_path: Path) -> None:
    where = train_classes.RunConfig(
        name="mine", storage_path=f"file://{tmp_path}",
        checkpoint_config=train_classes.CheckpointConfig(num_to_keep=2),
        failure_config=train_classes.FailureConfig(max_failures=3),
    )  # fmt: skip
    spec = spec_of(run_config=where)
    assert (spec.name, str(spec.storage), spec.checkpoint.keep_last) == ("mine", str(tmp_path), 2)
    assert set(spec.retries.values()) == {3}
    assert len(tune.Tuner(train, param_space={"x": 1}, run_config=where, backend="inline").fit()) == 1
    assert tune.Tuner.can_restore(f"file://{tmp_path}/mine")
    assert len(tune.Tuner.restore(f"file://{tmp_path}/mine", train).get_results()) == 1


def breaks(config: dict[str, Any]) -> None:
    raise ValueError("it breaks")


@pytest.mark.parametrize("restored", [False, True])
def test_a_failure_is_raised_where_that_is_asked_for(tmp_path: Path, restored: bool) -> None:
    where = tune.RunConfig(
        name="mine", storage_path=str(tmp_path), verbose=0, failure_config=tune.FailureConfig(fail_fast="raise")
    )
    tuner = tune.Tuner(breaks, run_config=where, backend="inline")
    if restored:
        with pytest.raises(RuntimeError):
            tuner.fit()
        tuner = tune.Tuner.restore(
            str(tmp_path / "mine"), breaks, resume_errored=True, tune_config=tune.TuneConfig(), run_config=where,
            backend="inline",
        )  # fmt: skip
    with pytest.raises(RuntimeError, match="ValueError: it breaks"):
        tuner.fit()
    assert len(tuner.get_results()) == 1


def test_every_argument_of_run_is_looked_at() -> None:
    public = {name for name in inspect.signature(theirs.run).parameters if not name.startswith("_")}
    assert public - {"run_or_experiment", "raise_on_failed_trial"} == set(OF_RUN)  # these have tests of their own


@pytest.mark.parametrize("name", OF_RUN)
def test_an_argument_of_run_has_its_meaning_or_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SearchSpec] = []

    class FittedError(Exception):
        pass

    def fit(tuner: tune.Tuner) -> None:
        made.append(tuner.spec)
        raise FittedError

    monkeypatch.setattr(tune.Tuner, "fit", fit)

    def spec() -> SearchSpec:
        with pytest.raises(FittedError):
            tune.run(train, **{"config": {"x": 1}, "name": "mine", name: OF_RUN[name][0]})
        return made[0]

    holds(OF_RUN[name], spec)


def test_restore_takes_what_ray_tunes_takes(tmp_path: Path) -> None:
    public = [name for name in inspect.signature(theirs.Tuner.restore).parameters if not name.startswith("_")]
    assert list(inspect.signature(tune.Tuner.restore).parameters)[: len(public)] == public


@pytest.mark.parametrize("name", theirs.__all__)
def test_every_name_of_the_module_is_there_or_refused(name: str) -> None:
    if name == "run_experiments":
        with pytest.raises(AttributeError, match="make a Tuner of each"):
            getattr(tune, name)
    else:
        assert getattr(tune, name) is not None


@pytest.mark.parametrize("name", [each for each in dir(theirs.ResultGrid) if not each.startswith("_")])
def test_every_name_of_a_result_grid_is_there(name: str) -> None:
    assert hasattr(tune.ResultGrid, name)


@pytest.mark.parametrize("name", [each for each in dir(theirs.ExperimentAnalysis) if not each.startswith("_")])
def test_every_name_of_an_analysis_is_there(name: str) -> None:
    assert hasattr(tune.ExperimentAnalysis, name)


@pytest.mark.parametrize("name", [*(each.name for each in dataclasses.fields(theirs.Result)), "from_path"])
def test_every_name_of_a_result_is_there(name: str) -> None:
    assert name.startswith("_") or hasattr(tune.Result, name)


def test_a_progress_reporter_shows_the_search_in_place_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet, shown = Quiet(), theirs.CLIReporter(metric_columns=["loss"], max_report_frequency=0)
    for at, reporter in enumerate((quiet, shown)):
        where = tune.RunConfig(name=str(at), storage_path=str(tmp_path), progress_reporter=reporter)
        space = {"x": tune.grid_search([1, 2])}
        found = tune.TuneConfig(metric="loss", mode="min")
        tune.Tuner(train, param_space=space, tune_config=found, run_config=where, backend="inline").fit()
    assert quiet.told[0] == (2, "loss", "min")
    assert quiet.told[-1] == (["TERMINATED", "TERMINATED"], True)
    out, err = capsys.readouterr()
    assert "Current best trial: 00000 with loss=1" in out
    assert "train_00001" in out
    assert err == ""
