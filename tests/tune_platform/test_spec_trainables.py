"""What cannot run a single trial is refused when the spec is built, or by `check` where it has to be imported."""

from __future__ import annotations

import abc
import asyncio
import functools
import types
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest

from tune_platform import (
    Budget,
    CheckpointPolicy,
    Resources,
    SearchSpec,
    SpecError,
    Trainable,
    choice,
    report,
    run,
    uniform,
)


class Outsider:
    def setup(self, config: dict[str, Any]) -> None: ...

    def step(self) -> dict[str, float]:
        return {"loss": 1.0}


class Lazy(Trainable):
    def setup(self, config: dict[str, Any]) -> None: ...


class Sound(Trainable):
    def step(self) -> dict[str, Any]:
        return {"loss": 1.0, "done": True}


class Needy(Sound):
    def __init__(self, data: str) -> None:
        super().__init__()


class Short(Sound):
    def setup(self) -> None: ...  # type: ignore[override]


class Awaited(Sound):
    async def step(self) -> dict[str, Any]:  # type: ignore[override]
        return {}


class Yielding(Sound):
    def step(self) -> Iterator[int]:  # type: ignore[override]
        yield 1


class Abstract(Sound, abc.ABC):
    @abc.abstractmethod
    def loss(self) -> float: ...


async def awaited(config: dict[str, Any]) -> None:
    await asyncio.sleep(0)


async def awaited_yields(config: dict[str, Any]) -> AsyncIterator[int]:
    yield 1


def nothing() -> None: ...


def both(config: dict[str, Any], data: str) -> None: ...


def keyword(config: dict[str, Any], *, data: str) -> None: ...


def yields(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for step in range(3):
        yield {"loss": 1.0 - step}


def returning(config: dict[str, Any]) -> Any:
    yield {"loss": 3.0}
    report({"loss": 2.0})
    return 1.0


class Callable:
    def __call__(self, config: dict[str, Any]) -> float:
        return 1.0


class AwaitedCallable:
    async def __call__(self, config: dict[str, Any]) -> float:
        return 1.0


def spec(trainable: Any = yields, **options: Any) -> SearchSpec:
    return SearchSpec(**{"trainable": trainable, "metric": "loss", "mode": "min", **options})


REFUSED: list[tuple[Any, str]] = [
    (Outsider, "the class Outsider is not a subclass of tune_platform.Trainable"),
    (Lazy, "the class Lazy has no step"),
    (Sound(), "got an object of Sound; give the class itself"),
    (Needy, "the class Needy is made without arguments, but its __init__ needs some"),
    (Short, r"Short.setup\(self\) cannot be called as setup\(self, config\)"),
    (Awaited, "Awaited.step is async"),
    (Yielding, "Yielding.step is a generator"),
    (Abstract, "the class Abstract is abstract: loss is missing"),
    (types, "got the module types"),
    (awaited, "awaited is async, which nobody awaits"),
    (functools.partial(awaited), "awaited is async"),
    (AwaitedCallable(), "AwaitedCallable is async"),
    (awaited_yields, "awaited_yields is an async generator"),
    (nothing, r"nothing\(\) cannot be called with the config alone"),
    (both, r"both\(config, data\) cannot be called with the config alone"),
    (keyword, r"keyword\(config, \*, data\) cannot be called with the config alone"),
]


@pytest.mark.parametrize(("trainable", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_cannot_run_a_trial_is_refused_in_python(trainable: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"trainable: .*{message}"):
        spec(trainable)


NAMED = [
    (name, message) for name, message in ((getattr(t, "__name__", ""), m) for t, m in REFUSED) if name in globals()
]


@pytest.mark.parametrize(("name", "message"), NAMED)
def test_what_cannot_run_a_trial_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec(f"{__name__}:{name}").check()


def test_what_can_run_is_taken() -> None:
    for trainable in (Sound, yields, functools.partial(both, data="x"), Callable(), lambda config: 1.0, print):
        assert spec(trainable).check() == ["space: has no parameters, so all trials have the same config"]


@pytest.mark.parametrize(("trainable", "losses"), [(yields, [1.0, 0.0, -1.0]), (returning, [3.0, 2.0])])
def test_what_a_generator_yields_is_reported(tmp_path: Path, trainable: Any, losses: list[float]) -> None:
    results = run(spec(trainable, storage=str(tmp_path), backend="inline"))
    assert [value for _, value in results.curves()[0]] == losses
    assert results[0].status == "COMPLETED"
    assert results[0].last.get("_metric") == (1.0 if trainable is returning else None)


def test_a_generator_that_is_stopped_runs_its_finally_blocks(tmp_path: Path) -> None:
    ended: list[float] = []

    def train(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            while True:
                yield {"loss": 1.0}
        finally:
            ended.append(True)

    results = run(spec(train, storage=str(tmp_path), backend="inline", stop={"training_iteration": 3}))
    assert (results[0].step, ended) == (3, [True])
    assert results[0].reason == "training_iteration 3 reached the stop condition 3"


# ------------------------------------------------------------------------------- resources


@pytest.mark.parametrize("gpu", [1.5, 2.25])
def test_more_than_one_gpu_comes_whole(gpu: float) -> None:
    for make in (lambda: Resources(gpu=gpu), lambda: spec(resources={"gpu": gpu})):
        with pytest.raises(SpecError, match=rf"gpu: got {gpu}; .*a fraction below 1, or {int(gpu)} or {int(gpu) + 1}"):
            make()
    assert Resources(gpu=0.5).gpu == 0.5
    assert Resources(gpu=2.0).gpu == 2.0


class PlacementGroupFactory:
    """Ray Tune's, which may be called, like a function of the config."""

    def __init__(self, bundles: list[dict[str, float]]) -> None:
        self.bundles, self.strategy = bundles, "SPREAD"

    def __call__(self) -> None: ...

    def __repr__(self) -> str:
        return "PlacementGroupFactory()"


@pytest.mark.parametrize(
    ("bundles", "instead"),
    [
        ([{"CPU": 2, "GPU": 0.5}], r"Resources\(cpu=2, gpu=0.5\)"),
        ([{"CPU": 1}, {"CPU": 2}, {"CPU": 2}], r"Resources\(cpu=2, workers=2, strategy='SPREAD'\)"),
        ([{"CPU": 2}, {"CPU": 2}], r"Resources\(cpu=2, workers=2, strategy='SPREAD'\)"),
    ],
)
def test_resources_of_ray_tune_are_no_function(bundles: list[dict[str, float]], instead: str) -> None:
    factory = PlacementGroupFactory(bundles)
    with pytest.raises(SpecError, match=f"resources: got Ray Tune's .*; write {instead}"):
        spec(resources=factory)
    trainable = functools.partial(yields)
    trainable._resources = factory  # type: ignore[attr-defined]
    assert any("with_resources" in warning for warning in spec(trainable).check())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda config: {"gpu": 1.5}, r"of the function, for {'x': 1}: resource gpu: got 1.5; Ray shares one GPU"),
        (lambda config: 5, r"of the function, for {'x': 1}: got 5 \(a whole number\)"),
        (lambda config: config["cpu"], r"the function raised KeyError\('cpu'\) for {'x': 1}"),
        (lambda config: PlacementGroupFactory([{"CPU": 1}]), r"got Ray Tune's .*; write Resources\(cpu=1"),
    ],
)
def test_a_function_of_resources_is_asked_before_a_start(function: Any, words: str) -> None:
    with pytest.raises(SpecError, match=f"resources: .*{words}"):
        spec(resources=function, param_space={"x": choice([1])}).check()
    spec(resources=lambda config: {"cpu": config["x"]}, param_space={"x": choice([1])}).check()


# ------------------------------------------------------------------------------- searchers, blocks


def test_the_class_of_a_sampler_is_as_good_as_an_object() -> None:
    spec(searcher=optuna.samplers.TPESampler).check()
    with pytest.raises(SpecError, match="searcher"):
        spec(searcher={"name": "optuna", "sampler": 3}).check()


def test_a_sampler_that_cannot_search_the_space_is_refused() -> None:
    sampler = optuna.samplers.GridSampler({"other": [1, 2]})
    with pytest.raises(SpecError, match="search: GridSampler cannot search this space: "):
        spec(searcher=sampler, param_space={"x": uniform(0, 1)}).check()


def test_a_sampler_for_one_objective_is_refused_for_two() -> None:
    searcher = {"name": "optuna", "sampler": optuna.samplers.CmaEsSampler()}
    space = {"x": uniform(0, 1), "y": uniform(0, 1)}
    with pytest.raises(SpecError, match="search: CmaEsSampler cannot search this space for 2 objectives"):
        spec(metric=["a", "b"], searcher=searcher, param_space=space).check()
    spec(searcher=searcher, param_space=space).check()
    spec(metric=["a", "b"], searcher={"name": "optuna", "sampler": optuna.samplers.NSGAIISampler()}).check()


@pytest.mark.parametrize(
    ("make", "message"),
    [  # mistakes that a type checker sees as well
        (lambda: Budget(trials="x"), r"Budget: trials: got 'x' \(text\); a whole number is wanted"),  # type: ignore[arg-type]
        (lambda: Budget(trails=3), r"Budget: trails: unknown key \(did you mean 'trials'\?\)"),  # type: ignore[call-arg]
        (lambda: Budget(3), "Budget takes keywords only: trials, time"),  # type: ignore[call-arg]
        (lambda: Budget(target=10**400), "Budget: target: .* more than a float holds"),
        (lambda: Budget(target=10**5000), "Budget: target: got an unprintable int"),
        (lambda: CheckpointPolicy(keep_last=0), "CheckpointPolicy: keep_last: got 0; must be at least 1"),
        (lambda: CheckpointPolicy(every=-1), "CheckpointPolicy: every: got -1"),
        (lambda: setattr(Budget(), "trials", 3), "Budget.trials cannot be changed"),
        (lambda: setattr(spec(), "seed", 3), "SearchSpec.seed cannot be changed"),
        (lambda: spec(budget={"trials": "x"}), "SearchSpec: budget.trials: got 'x'"),
    ],
)
def test_blocks_tell_what_is_wrong_in_our_words(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_a_timedelta_is_a_duration() -> None:
    hour = timedelta(hours=1)
    made = spec(budget=Budget(time=hour), step_timeout=hour, grace=timedelta(0))
    assert (made.budget.time, made.step_timeout, made.grace) == (3600.0, 3600.0, 0.0)
    assert SearchSpec.from_dict(spec(f"{__name__}:yields", step_timeout=hour).to_dict()).step_timeout == 3600.0
    with pytest.raises(SpecError, match="must be above zero"):
        Budget(time=timedelta(0))


class Saving(Sound):
    def get_state(self) -> int:
        return 1


@pytest.mark.parametrize(
    "policy", [CheckpointPolicy(every=2), CheckpointPolicy(at_end=True), CheckpointPolicy(keep_best=1)]
)
def test_checkpoints_of_a_class_that_saves_none_are_warned_of(policy: CheckpointPolicy) -> None:
    def warned(trainable: type[Trainable], policy: CheckpointPolicy) -> list[str]:
        spec = SearchSpec(trainable=trainable, param_space={"x": uniform(0, 1)}, metric="loss", mode="min",
                          num_samples=1, backend="inline", checkpoint=policy)  # fmt: skip
        return spec.check()

    said = "checkpoint: none is written, for the trainable has no save_checkpoint(directory) and no get_state()"
    assert warned(Sound, policy) == [said]
    assert warned(Sound, CheckpointPolicy()) == warned(Saving, policy) == []
