"""`run`, `resume` and `load` from end to end, in this process unless a test says otherwise."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tune_platform import (
    Budget,
    CheckpointPolicy,
    Results,
    SearchSpec,
    Trainable,
    choice,
    get_checkpoint,
    get_context,
    grid_search,
    load,
    report,
    resume,
    run,
    uniform,
)
from tune_platform.engine.controller import Controller
from tune_platform.errors import ExperimentError, SpecError
from tune_platform.protocol.commands import Command
from tune_platform.protocol.events import Event, Reported
from tune_platform.store.checkpoints import CheckpointStorage
from tune_platform.store.experiment import SqlExperiment
from tune_platform.store.sql import open_store

STEPS = 6


def loss(config: Mapping[str, Any], step: int) -> float:
    return float((config["x"] - 0.3) ** 2 + 1 / step)


class Falling(Trainable):
    """Six reports, each better than the one before."""

    def setup(self, config: dict[str, Any]) -> None:
        self.now = self.start = 0

    def step(self) -> Mapping[str, Any] | None:
        if self.now == STEPS:
            return None
        self.now += 1
        return {"loss": loss(self.config, self.now), "cost": self.config["x"], "start": self.start}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "state.json").write_text(json.dumps(self.now))

    def load_checkpoint(self, directory: Path) -> None:
        self.now = self.start = json.loads((directory / "state.json").read_text())


def falling(config: Mapping[str, Any]) -> None:
    """The same as a function."""
    found = get_checkpoint()
    start = json.loads((found / "state.json").read_text()) if found else 0
    for step in range(start + 1, STEPS + 1):
        report({"loss": loss(config, step), "cost": config["x"], "start": start})


class Broken(Falling):
    """Fails at step 3 while there is a file of the name `config["flag"]`."""

    def step(self) -> Mapping[str, Any] | None:
        if self.now == 2 and Path(self.config["flag"]).exists():
            raise ValueError("the flag is up")
        return super().step()


class Hanging(Falling):
    """Hangs in its first attempt, in step 3; step 2 is so long that the reports are sent off after it."""

    def step(self) -> Mapping[str, Any] | None:
        if self.now and self.context.attempt == 1:
            time.sleep(1.2 if self.now == 1 else 3600)
        return super().step()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SearchSpec]:
    """Return a function that makes a spec: five trials of `Falling`, unless told otherwise."""

    def spec(**changes: Any) -> SearchSpec:
        fields: dict[str, Any] = {
            "trainable": Falling, "param_space": {"x": uniform(0, 1)}, "metric": "loss", "mode": "min", "name": "toy",
            "num_samples": 5, "seed": 7, "storage": str(tmp_path / "results"), "backend": "inline",
        }  # fmt: skip
        return SearchSpec(**(fields | changes))

    return spec


Make = Callable[..., SearchSpec]


def table(results: Results) -> list[tuple[Any, ...]]:
    return [(t.number, t.status, dict(t.config), t.step, t.best, t.best_step) for t in results]


def after(reports: int, act: Callable[[], object]) -> Callable[..., None]:
    """A listener that calls `act` once so many reports have been committed, and again with each later one."""
    seen = 0

    def listener(controller: Controller, events: Sequence[Event], commands: Sequence[Command]) -> None:
        nonlocal seen
        new = sum(len(event.reports) for event in events if isinstance(event, Reported))
        seen += new
        if new and seen >= reports:
            act()

    return listener


def interrupt() -> None:
    raise KeyboardInterrupt


def sigint() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def whole(results: Results) -> None:
    """Every trial has all of its reports, once each."""
    curves = results.curves()
    for trial in results:
        assert trial.status == "COMPLETED", trial
        assert curves[trial.number] == [(step, loss(trial.config, step)) for step in range(1, STEPS + 1)]


# ------------------------------------------------------------------------------------------ results


def test_run_gives_results(make: Make) -> None:
    results = run(make())
    assert (results.status, results.finish.status, len(results)) == ("finished", "finished", 5)
    assert results.finish.reason == "all 5 trials are done"
    whole(results)
    best = results.best()
    assert best.best == min(loss(trial.config, STEPS) for trial in results)
    assert best.best_step == STEPS
    assert table(load("toy", storage=results.storage)) == table(results)


def test_the_same_seed_gives_the_same_table(make: Make) -> None:
    first, second, other = (run(make(name=name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert table(first) == table(second) != table(other)


def test_functions_and_classes_give_the_same(make: Make) -> None:
    results = [table(run(make(name=t.__name__, trainable=t))) for t in (Falling, falling)]
    assert results[0] == results[1]


def test_a_search_without_a_name_gets_one(make: Make) -> None:
    assert run(make(name="", num_samples=1)).name.startswith("falling-")


def test_unknown_names(make: Make, tmp_path: Path) -> None:
    run(make(num_samples=1))
    for call in (load, resume):
        with pytest.raises(ExperimentError, match=r"no experiment 'toys'.*did you mean 'toy'"):
            call("toys", storage=tmp_path / "results")


def test_a_name_is_taken_once(make: Make) -> None:
    before = table(run(make()))
    with pytest.raises(ExperimentError, match=r"(?s)exists already.*resume"):
        run(make(seed=8))
    assert table(load("toy", storage=make().storage)) == before


def test_what_cannot_work_is_refused_before_anything_is_made(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no_such_module"):
        run(make(trainable="no_such_module:train"))
    assert not (tmp_path / "results").exists()


def test_start_points_come_first(make: Make) -> None:
    results = run(make(start_points=[{"x": 0.25}, {"x": 0.75}]))
    assert [(t.origin, t.config["x"]) for t in results][:2] == [("start", 0.25), ("start", 0.75)]
    assert [t.origin for t in results][2:] == ["searcher"] * 3


def test_samples_multiply_the_grid(make: Make) -> None:
    results = run(make(param_space={"x": uniform(0, 1), "a": grid_search([1, 2, 3])}, num_samples=2))
    assert sorted(t.config["a"] for t in results) == [1, 1, 2, 2, 3, 3]
    assert len({t.config["x"] for t in results}) == 6


def test_stop_ends_a_trial(make: Make) -> None:
    results = run(make(stop={"step": 4}))
    assert {(t.status, t.step) for t in results} == {("COMPLETED", 4)}


def test_several_objectives(make: Make) -> None:
    metrics = {"metric": ["loss", "cost"], "mode": "min"}
    results = run(make(**metrics, searcher={"name": "nsgaii", "population_size": 4}, num_samples=12))
    front = results.pareto()
    values = [(t.metrics["loss"], t.metrics["cost"]) for t in results]
    assert front
    for trial in front:
        mine = (trial.metrics["loss"], trial.metrics["cost"])
        assert not any(a <= mine[0] and b <= mine[1] and (a, b) != mine for a, b in values)


# ------------------------------------------------------------------------------------------ budgets


def test_a_target_ends_the_search(make: Make) -> None:
    results = run(make(budget=Budget(target=0.9), start_points=[{"x": 0.3}]))
    assert results.status == "finished"
    assert "reached the target 0.9 in trial 0" in results.finish.reason
    assert results.trial(0).status == "STOPPED"
    assert results.best().best_step == 2


def test_a_budget_of_time_ends_the_search(make: Make) -> None:
    results = run(make(num_samples=-1, budget=Budget(time=0.5)))
    assert results.status == "finished"
    assert "time budget of 0.5 s is used up" in results.finish.reason


def test_too_many_failures_end_the_search(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    results = run(make(trainable=Broken, param_space={"x": uniform(0, 1), "flag": str(flag)},
                       budget=Budget(failures=1)))  # fmt: skip
    assert results.status == "failed"
    assert "2 trials failed, more than the budget of 1" in results.finish.reason
    assert [t.status for t in results][:2] == ["FAILED", "FAILED"]


# ------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("act", [interrupt, sigint])
@pytest.mark.parametrize("trainable", [Falling, falling])
def test_an_interrupted_search_goes_on(make: Make, act: Callable[[], object], trainable: Any) -> None:
    calm = run(make(name="calm", trainable=trainable))
    spec = make(trainable=trainable)
    if act is interrupt:  # at once, as the second Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            run(spec, listeners=[after(9, act)])
    else:
        assert run(spec, listeners=[after(9, act)]).finish.status == "interrupted"
    halfway = load("toy", storage=spec.storage)
    assert halfway.status == "interrupted"
    assert "resume goes on from here" in halfway.finish.reason
    assert 1 <= len(halfway.trials(status="COMPLETED")) < 5
    results = resume("toy", storage=spec.storage)
    assert results.status == "finished"
    whole(results)
    assert table(results) == table(calm)


def test_a_graceful_interrupt_keeps_the_work(make: Make) -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs begin with it ignored
    spec = make()
    run(spec, listeners=[after(9, sigint)])
    results = resume("toy", storage=spec.storage)
    starts = {t.metrics["start"] for t in results}
    assert len(starts) == 2, "the trial that ran went on from the checkpoint of its last step"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_ends_at_once(make: Make) -> None:
    def twice() -> None:
        sigint()
        sigint()

    with pytest.raises(KeyboardInterrupt):
        run(make(), listeners=[after(9, twice)])
    assert load("toy", storage=make().storage).status == "interrupted"
    whole(resume("toy", storage=make().storage))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_a_backend_leaves_a_true_status(
    make: Make, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_ours(number: int, frame: Any) -> None:
        raise AssertionError("the signal met the handler of the program, which by default kills it")

    def make_backend(spec: SearchSpec) -> Any:
        signal.raise_signal(number)

    spec = make()
    before = signal.signal(number, not_ours)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(SearchSpec, "make_backend", make_backend)
            with pytest.raises(KeyboardInterrupt):
                run(spec)
        assert signal.getsignal(number) is not_ours
    finally:
        signal.signal(number, before)
    assert load("toy", storage=spec.storage).status == "interrupted"
    whole(run(spec))  # without a trial the name is free


def test_a_driver_that_fails_says_so_and_can_be_resumed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_append, left = SqlExperiment.append, 9

    def fail(*args: Any, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError("no space left")
        whole_append(*args, **options)

    spec = make()
    monkeypatch.setattr(SqlExperiment, "append", fail)
    with pytest.raises(OSError, match="no space left"):
        run(spec)
    failed = load("toy", storage=spec.storage)
    assert (failed.status, failed.finish.reason) == ("failed", "the driver failed: OSError: no space left")
    whole(resume("toy", storage=spec.storage))


def test_a_driver_that_died_before_its_first_turn(make: Make) -> None:
    spec = make()
    with open_store(spec.storage) as store:
        store.create("toy", spec.to_dict(), created=time.time()).close()
    whole(resume("toy", storage=spec.storage))


def test_another_spec_is_refused_and_the_differences_named(make: Make) -> None:
    spec = make()
    run(spec, listeners=[after(9, sigint)])
    with pytest.raises(ExperimentError, match="started with another spec") as refused:
        resume("toy", storage=spec.storage, spec=make(seed=8, stop={"step": 3}))
    assert "seed" in str(refused.value)
    assert "stop" in str(refused.value)
    assert "budget" not in str(refused.value)
    with pytest.raises(ExperimentError, match="started with another space"):
        resume("toy", storage=spec.storage, spec=make(param_space={"x": uniform(0, 2)}))
    assert load("toy", storage=spec.storage).status == "interrupted"
    # What only says where it runs may differ.
    whole(resume("toy", storage=spec.storage, spec=make(backend={"name": "inline", "num_cpus": 2}, description="new")))


def test_live_objects_need_the_spec_again(make: Make) -> None:
    class Local(Falling):
        pass

    spec = make(trainable=Local)
    run(spec, listeners=[after(9, sigint)])
    with pytest.raises(SpecError, match=r"Local"):
        resume("toy", storage=spec.storage)
    whole(resume("toy", storage=spec.storage, spec=spec))


def test_resuming_what_is_finished_changes_nothing_unless_it_is_extended(make: Make) -> None:
    spec = make()
    before = table(run(spec))
    assert table(resume("toy", storage=spec.storage)) == before
    longer = resume("toy", storage=spec.storage, extend={"trials": 2})
    assert len(longer) == 7
    assert table(longer)[:5] == before
    assert table(longer) == table(run(make(name="calm", num_samples=7)))
    with pytest.raises(SpecError, match=r"unknown 'trails' \(did you mean 'trials'\?\); allowed: trials, time"):
        resume("toy", storage=spec.storage, extend={"trails": 2})


def test_failed_trials_are_retried_when_asked(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    spec = make(trainable=Broken, param_space={"x": uniform(0, 1), "flag": str(flag)}, num_samples=2)
    assert run(spec).counts == {"FAILED": 2}
    assert "ValueError: the flag is up" in load("toy", storage=spec.storage).errors()[0]
    flag.unlink()
    assert resume("toy", storage=spec.storage).counts == {"FAILED": 2}
    results = resume("toy", storage=spec.storage, retry_failed=True)
    whole(results)
    assert {t.attempt for t in results} == {2}
    assert not results.errors()


def test_two_drivers_are_refused(make: Make) -> None:
    spec = make()
    run(spec, listeners=[after(9, sigint)])
    with open_store(spec.storage) as store, store.open("toy") as experiment:
        experiment.acquire(f"{socket.gethostname()}:{os.getppid()}")  # a process that lives
        with pytest.raises(ExperimentError, match="is being run by"):
            resume("toy", storage=spec.storage)
        assert experiment.row().status == "running"
        experiment.set_status("interrupted", "", time.time())
    whole(resume("toy", storage=spec.storage))


@pytest.mark.parametrize("name", ["toy", "renamed"])
def test_an_experiment_that_was_moved_goes_on(make: Make, tmp_path: Path, name: str) -> None:
    spec = make(checkpoint=CheckpointPolicy(every=2, keep_last=None))
    run(spec, listeners=[after(9, sigint)])
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "results" / "toy", tmp_path / "elsewhere" / name)
    results = resume(name, storage=tmp_path / "elsewhere")
    whole(results)
    assert len({t.metrics["start"] for t in results}) == 2, "its checkpoint was found"
    for trial in results:
        assert results.checkpoint(trial.number, 2).uri.startswith(f"{tmp_path}/elsewhere/{name}/")
        assert trial.checkpoint is not None
        assert Path(trial.checkpoint).is_dir()


def test_a_log_with_absolute_checkpoints_is_read(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all logs had them once."""
    spec = make(checkpoint=CheckpointPolicy(every=2, keep_last=2))
    with monkeypatch.context() as patched:
        patched.setattr("tune_platform.api._folder", lambda spec, name: "")
        run(spec, listeners=[after(9, sigint)])
    with open_store(spec.storage) as store, store.open("toy", readonly=True) as experiment:
        assert {row.uri[0] for row in experiment.checkpoints()} == {"/"}
    results = resume("toy", storage=spec.storage)
    whole(results)
    assert len({t.metrics["start"] for t in results}) == 2, "its checkpoint was found"
    assert on_disk(results) == [(trial, step) for trial in range(5) for step in (4, 6)], "the older ones are deleted"


# ------------------------------------------------------------------------------------------ checkpoints


def on_disk(results: Results) -> list[tuple[int, int]]:
    root = Path(results.storage) / results.name / "checkpoints"
    return [(ref.trial, ref.step) for ref in CheckpointStorage(str(root)).list()]


def test_the_last_and_the_best_checkpoints_are_kept(make: Make) -> None:
    # For a maximum the first checkpoint is the best one.
    policy = CheckpointPolicy(every=1, keep_last=2, keep_best=1)
    results = run(make(mode="max", checkpoint=policy, num_samples=2))
    assert on_disk(results) == [(trial, step) for trial in (0, 1) for step in (1, 5, 6)]
    results = run(make(name="all", checkpoint=CheckpointPolicy(every=2, keep_last=None), num_samples=2))
    assert on_disk(results) == [(trial, step) for trial in (0, 1) for step in (2, 4, 6)]
    assert Path(results.checkpoint(1, 4).uri).is_dir()


def test_checkpoints_that_the_log_does_not_have_are_deleted(make: Make, tmp_path: Path) -> None:
    """A process that is killed leaves some: written and not committed, or to be deleted and not deleted."""
    spec = make(checkpoint=CheckpointPolicy(every=2))
    run(spec, listeners=[after(9, sigint)])
    root = tmp_path / "results" / "toy" / "checkpoints"
    CheckpointStorage(str(root)).save(4, 2, 9, lambda directory: None)
    (root / "trial-00000" / ".tmp-step-00000002-a1-0123").mkdir()
    results = resume("toy", storage=spec.storage)
    assert on_disk(results) == [(trial, 6) for trial in range(5)]
    assert not list(root.glob("*/.tmp-*"))


def test_experiments_may_share_a_place_for_checkpoints(make: Make, tmp_path: Path) -> None:
    policy = CheckpointPolicy(every=6, storage=str(tmp_path / "shared"))
    results = [run(make(name=name, checkpoint=policy, num_samples=1)) for name in ("a", "b")]
    first, second = (r.checkpoint(0).uri for r in results)
    assert first != second
    assert Path(first).is_dir()
    assert Path(second).is_dir()


# ------------------------------------------------------------------------------------------ elsewhere


@pytest.mark.slow
def test_a_step_that_hangs_is_tried_again(make: Make) -> None:
    spec = make(
        trainable=Hanging, num_samples=1, step_timeout=12.0, checkpoint=CheckpointPolicy(every=2),
        backend={"name": "ray", "num_cpus": 1},
    )  # fmt: skip
    results = run(spec)
    whole(results)
    trial = results.trial(0)
    assert (trial.attempt, trial.metrics["start"]) == (2, 2)
    assert "no report for 12 s" in trial.error
    told = [line.reason for line in results.why(0) if line.verdict == "failed"]
    assert told == ["attempt 1: timeout: no report for 12 s (step_timeout)"]


@pytest.mark.slow
def test_postgresql_from_end_to_end(
    make: Make, empty_postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from tune_platform.cli import main

    monkeypatch.chdir(tmp_path)
    spec = make(storage=empty_postgresql, param_space={"x": uniform(0, 1), "a": choice(["b", "c"])})
    assert run(spec, listeners=[after(9, sigint)]).status == "interrupted"
    results = resume("toy", storage=empty_postgresql)
    whole(results)
    assert results.status == "finished"
    calm = run(make(name="calm", param_space={"x": uniform(0, 1), "a": choice(["b", "c"])}))
    assert table(results) == table(calm)

    def call(*words: str) -> Any:
        done = CliRunner().invoke(main, [*words, "--storage", empty_postgresql, "--json"], prog_name="tune-platform")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert [(row["name"], row["status"]) for row in call("ls")] == [("toy", "finished")]
    assert call("show", "toy")["name"] == "toy"
    best = call("best", "toy")
    assert best["trial"] == results.best().number
    for words in (("ls",), ("show", "toy"), ("best", "toy")):
        shown = CliRunner().invoke(main, [*words, "--storage", empty_postgresql], prog_name="tune-platform")
        assert shown.exit_code == 0, shown.output
        assert "toy" in shown.output or words[0] == "best"


@pytest.mark.parametrize(
    ("options", "horizon"),
    [
        ({"scheduler": {"name": "asha", "resource": "epoch", "max": 9}, "stop": {"step": 5}}, {"epoch": 9, "step": 5}),
        ({"scheduler": {"name": "asha", "max": 9}, "stop": {"step": 5}}, {"step": 5}),
        ({"scheduler": {"name": "asha", "max": 9}}, {"step": 9}),
        ({"scheduler": {"name": "asha", "max": 9}, "stop": {"training_iteration": 5}}, {"step": 5}),
        ({"scheduler": "asha"}, {}),
        ({"scheduler": "fifo"}, {}),
    ],
)
def test_a_trial_knows_when_it_ends_at_the_latest(
    options: dict[str, Any], horizon: dict[str, float], tmp_path: Path
) -> None:
    seen: list[Mapping[str, float]] = []

    def train(config: dict[str, Any]) -> None:
        seen.append(dict(get_context().horizon))
        for epoch in range(1, 4):
            report({"loss": config["x"], "epoch": epoch})

    run(
        SearchSpec(
            name="e", trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=1,
            searcher="random", storage=str(tmp_path), backend="inline", progress="off", **options,
        )
    )  # fmt: skip
    assert seen == [horizon]
