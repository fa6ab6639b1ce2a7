"""What Optuna's study holds of trials that were stopped, paused and cloned, and that it holds the same on resume."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial

from tune_platform.errors import SearcherError
from tune_platform.protocol.searcher import Outcome, PastTrial
from tune_platform.searchers import OptunaSearcher, _cma_state
from tune_platform.searchers._optuna_study import step_of
from tune_platform.space import Space, SpaceTrial, choice, loguniform, normal, quniform, uniform, when

LINE = Space({"x": uniform(0, 1)})


def start(searcher: OptunaSearcher, space: Space = LINE, mode: tuple[str, ...] = ("min",)) -> Any:
    searcher.setup(space, mode=mode, seed=0)
    return searcher


def seen(searcher: OptunaSearcher) -> list[dict[str, Any]]:
    """All that a sampler can see of the study but the times."""
    return [
        {
            "state": trial.state.name,
            "values": trial.values,
            "params": trial.params,
            "distributions": trial.distributions,
            "steps": trial.intermediate_values,
            "attrs": _cma_state.to_json(trial.system_attrs),  # without the state of a generator that is seeded anew
        }
        for trial in shown(searcher)
    ]


def shown(searcher: OptunaSearcher) -> list[FrozenTrial]:
    return searcher._study.get_trials()


def resumed(sampler: str, space: Space, past: list[PastTrial], **kwargs: Any) -> Any:
    """A searcher that is told the past as a log has it: as JSON."""
    searcher = start(OptunaSearcher(sampler, **kwargs), space)

    def plain(data: Any) -> Any:
        return json.loads(json.dumps(data))

    def read(trial: PastTrial) -> PastTrial:
        outcome = trial.outcome and replace(trial.outcome, config=plain(trial.outcome.config))
        return PastTrial(trial.number, plain(trial.config), plain(trial.memo), outcome)

    searcher.restore([read(trial) for trial in past])
    return searcher


def test_outcomes() -> None:
    searcher = start(OptunaSearcher("tpe"))
    rungs = ((1.0, 0.9), (3.0, 0.4), (5.0, 0.6))
    nan = ((1.0, float("nan")), (3.0, 0.4))
    ends: list[tuple[Outcome, str, float | None, dict[float, float]]] = [
        (Outcome("completed", 0.4, 5, rungs=rungs), "COMPLETE", 0.4, {1: 0.9, 3: 0.4, 5: 0.6}),
        (Outcome("stopped", 0.4, 5, resource=5.0, rungs=rungs), "PRUNED", 0.6, {1: 0.9, 3: 0.4, 5: 0.6}),
        (Outcome("stopped", 2.0, 5), "PRUNED", 2.0, {5: 2.0}),
        (Outcome("stopped", 2.0, 5, resource=0.5), "PRUNED", 2.0, {0.5: 2.0}),
        (Outcome("stopped", 0.4, 3, rungs=nan), "PRUNED", 0.4, {3: 0.4}),
        (Outcome("failed", 1.0, 5, rungs=rungs), "FAIL", None, {}),
        (Outcome("completed", float("nan"), 5), "FAIL", None, {}),
        (Outcome("stopped", None, 0), "FAIL", None, {}),
    ]
    for n, (outcome, *_) in enumerate(ends):
        searcher.ask(n)
        searcher.tell(n, outcome)
    searcher.observe(len(ends), {"x": 0.25})
    *trials, last = shown(searcher)
    assert [(t.state.name, t.values, t.intermediate_values) for t in trials] == [
        (state, None if value is None else [value], {step_of(resource): v for resource, v in steps.items()})
        for _, state, value, steps in ends
    ]
    assert (last.state.name, last.params) == ("RUNNING", {"x": 0.25})
    with pytest.raises(SearcherError, match="not running"):
        searcher.tell(0, ends[0][0])


def test_steps_order_as_resources_do() -> None:
    resources = [0.0, 5e-324, 1e-9, 0.25, 0.5, 0.5 + 1e-16, 1.0, 1.5, 2.0, 3, 27.0, 1e9, 1e9 + 1e-6, 1e300]
    mixed = resources + [-r for r in resources]
    random.Random(0).shuffle(mixed)
    assert sorted(mixed, key=step_of) == sorted(mixed)
    assert len({step_of(r) for r in mixed}) == len(set(mixed))
    assert all(type(step_of(r)) is int and abs(step_of(r)) < 2**63 for r in mixed)


def test_tpe_prefers_those_that_came_far_over_those_that_were_good_early() -> None:
    """A trial stopped at its first rung with a low value is no good trial: others that came further are."""
    searcher = start(OptunaSearcher("tpe", n_startup_trials=10))
    for n in range(40):
        x = 0.1 + 0.02 * (n % 5) if n % 4 else 0.8 + 0.02 * (n % 5)
        searcher.observe(n, {"x": x})
        if n % 4:  # quick to fall, then stopped
            searcher.tell(n, Outcome("stopped", 0.1, 1, config={"x": x}, resource=0.5, rungs=((0.5, 0.1),)))
        else:
            rungs = ((0.5, 0.9), (0.75, 0.8))
            searcher.tell(n, Outcome("stopped", 0.8, 3, config={"x": x}, resource=0.75, rungs=rungs))
    found = [searcher.ask(40 + n).config["x"] for n in range(12)]
    assert sum(x > 0.5 for x in found) > 8


CONDITIONAL = Space(
    {
        "kind": choice(["sgd", "adam"]),
        "lr": loguniform(1e-4, 1),
        "momentum": when(uniform(0, 1), {"kind": "sgd"}),
        "decay": quniform(0, 1, 0.1),
        "noise": normal(0, 1),
    }
)


def by_run(trial: SpaceTrial) -> None:
    if trial.suggest_categorical("kind", ["sgd", "adam"]) == "sgd":
        trial.suggest_float("momentum", 0, 1)
    trial.suggest_float("lr", 1e-4, 1, log=True)


def test_the_value_of_a_clone_stands_under_the_config_that_gave_it() -> None:
    searcher = start(OptunaSearcher("tpe"))
    searcher.observe(0, {"x": 0.7})
    clone = Outcome("completed", 0.26, 8, config={"x": 0.448}, resource=8.0, rungs=((4.0, 0.3), (8.0, 0.26)))
    searcher.tell(0, replace(clone, status="paused"))
    assert [(t.params, t.state.name, t.value) for t in shown(searcher)] == [({"x": 0.448}, "PRUNED", 0.26)]
    searcher.tell(0, clone)
    assert [(t.params, t.state.name, t.value) for t in shown(searcher)] == [({"x": 0.448}, "COMPLETE", 0.26)]
    searcher.observe(1, {"x": 0.9})
    searcher.tell(1, replace(clone, config={"x": 1.08}))  # explored out of the space: nobody's value
    assert [(t.params, t.state.name, t.value) for t in shown(searcher)[1:]] == [({"x": 0.9}, "FAIL", None)]
    searcher.observe(2, {"x": 0.9})
    searcher.tell(2, replace(clone, status="paused", config={"x": 1.08}))
    assert shown(searcher)[2].state.name == "RUNNING"


def test_the_same_config_in_other_words_is_no_clone() -> None:
    """A log writes a tuple as a list; the parameters stay those that were drawn, to the last bit."""
    space = Space({"noise": normal(0, 1), "layers": choice([(8, 8), (16,)])})
    for n in range(20):
        searcher = start(OptunaSearcher("cmaes"), space)
        suggestion = searcher.ask(n)
        drawn = dict(shown(searcher)[0].params)
        searcher.tell(n, Outcome("completed", 0.1, 1, config=json.loads(json.dumps(suggestion.config))))
        assert shown(searcher)[0].params == drawn


def test_a_clone_may_lie_on_another_branch() -> None:
    for space in (CONDITIONAL, Space(by_run)):
        searcher = start(OptunaSearcher("tpe"), space)
        rest = {"decay": 0.3, "noise": 0.5} if space is CONDITIONAL else {}
        searcher.observe(0, {"kind": "sgd", "lr": 0.1, "momentum": 0.9, **rest})
        searcher.tell(0, Outcome("completed", 0.2, 3, config={"kind": "adam", "lr": 0.08, **rest}))
        (trial,) = shown(searcher)
        assert trial.params.keys() == trial.distributions.keys() == {"kind", "lr", *rest}
        assert (trial.params["kind"], trial.params["lr"], trial.value) == ("adam", 0.08, 0.2)


@pytest.mark.parametrize(
    ("sampler", "kwargs"),
    [
        ("tpe", {"n_startup_trials": 4}),
        ("cmaes", {"popsize": 4}),
        ("cmaes", {"popsize": 4, "with_margin": True}),
        ("nsgaii", {"population_size": 4}),
        ("nsgaiii", {"population_size": 4}),
        ("qmc", {}),
    ],
)
@pytest.mark.parametrize("space", [CONDITIONAL, Space(by_run)], ids=["conditional", "by run"])
def test_the_study_is_the_same_on_resume(sampler: str, kwargs: Mapping[str, Any], space: Space) -> None:
    """State by state: parameters, rungs, attributes, of clones, stopped and paused trials."""
    draw = random.Random(1)
    whole = start(OptunaSearcher(sampler, **kwargs), space)
    past: list[PastTrial] = []
    for n in range(40):
        suggestion = whole.ask(n)
        config = dict(suggestion.config)
        status = draw.choice(["completed", "completed", "completed", "stopped", "paused", "failed", ""])
        outcome = None
        if status:
            value = draw.random()
            if draw.random() < 0.4:
                config["lr"] *= draw.choice([0.8, 1.2, 100.0])
            if draw.random() < 0.1:
                config["kind"] = "adam"
                config.pop("momentum", None)
            rungs = tuple((0.5 * k, value + k % 2) for k in range(1, draw.randint(2, 4)))
            best, reached = min(value for _, value in rungs), rungs[-1][0]
            outcome = Outcome(status, best, 9, config=config, resource=reached, rungs=rungs)
            whole.tell(n, outcome)
        past.append(PastTrial(n, suggestion.config, suggestion.memo, outcome))
    again = resumed(sampler, space, past, **kwargs)
    assert seen(again) == seen(whole)
    assert again._study.best_trial.number == whole._study.best_trial.number
    assert any(t.outcome and t.outcome.config != t.config for t in past)
    for n in range(40, 44):
        assert again.ask(n) == whole.ask(n)
    for trial in past:  # what was open ends in both
        if trial.outcome is None or trial.outcome.status == "paused":
            for searcher in (whole, again):
                searcher.tell(trial.number, Outcome("completed", 0.1, 9, config=trial.config, resource=2.0))
    assert seen(again) == seen(whole)
    assert again.ask(44) == whole.ask(44)


@pytest.mark.parametrize("kwargs", [{"popsize": 4}, {"popsize": 4, "with_margin": True}])
def test_cma_does_not_take_a_clone_for_the_point_that_it_drew(kwargs: Mapping[str, Any]) -> None:
    searcher = start(OptunaSearcher("cmaes", **kwargs), Space({"x": uniform(0, 1), "y": uniform(0, 1)}))
    for n in range(20):
        config = searcher.ask(n).config
        cloned = {"x": 0.5, "y": 0.5} if n == 15 else config
        searcher.tell(n, Outcome("completed", cloned["x"], 1, config=cloned))
    drawn, clone = shown(searcher)[14:16]
    assert clone.params == {"x": 0.5, "y": 0.5}
    assert "x_for_tell" not in clone.system_attrs
    assert any(key.endswith(":generation") for key in drawn.system_attrs)
    assert not any(key.endswith(":generation") for key in clone.system_attrs)


def test_the_last_of_several_metrics_stands_under_its_config() -> None:
    searcher = start(OptunaSearcher("nsgaii", population_size=4), mode=("min", "max"))
    searcher.observe(0, {"x": 0.7})
    searcher.tell(0, Outcome("stopped", 0.1, 4, (0.2, 5.0), {"x": 0.4}, 4.0, ((2.0, 0.1), (4.0, 0.2))))
    (trial,) = shown(searcher)
    assert (trial.state.name, trial.values, trial.params) == ("COMPLETE", [0.2, 5.0], {"x": 0.4})


def test_a_trial_that_no_longer_fits_the_space_is_a_failed_one() -> None:
    past = [
        PastTrial(0, {"x": 3.0}, {"params": {"x": 3.0}}, Outcome("completed", 0.1, 1)),
        PastTrial(1, {"z": 0.5}, {"params": {"z": 0.5}}, None),
        PastTrial(2, {"x": 0.5}, {"params": {"x": 0.5}}, Outcome("completed", 0.2, 1)),
    ]
    searcher = resumed("tpe", LINE, past)
    assert [t.state.name for t in shown(searcher)] == ["FAIL", "RUNNING", "COMPLETE"]
    searcher.tell(1, Outcome("completed", 0.3, 1, config={"z": 0.6}))
    assert [t.state.name for t in shown(searcher)] == ["FAIL", "FAIL", "COMPLETE"]


def test_a_batch_is_drawn_one_by_one() -> None:
    """The first of a batch need not wait for the rest, and each sees those before it."""
    whole, batched = (start(OptunaSearcher("tpe", n_startup_trials=2)) for _ in range(2))
    for n in range(6):
        for searcher in (whole, batched):
            searcher.ask(n)
            searcher.tell(n, Outcome("completed", float(n), 1))
    drawn = batched.ask_batch([6, 7, 8])
    assert len(shown(batched)) == 6
    assert next(drawn) == whole.ask(6)
    assert len(shown(batched)) == 7
    assert list(drawn) == [whole.ask(7), whole.ask(8)]


def test_a_long_past_is_put_together_without_deep_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's own `add_trial` copies each trial deeply, which is most of the time that a long past takes."""
    memo = {"params": {"x": 0.5}}
    past = [PastTrial(n, {"x": 0.5}, memo, Outcome("stopped", float(n % 7), 3)) for n in range(2000)]
    searcher = start(OptunaSearcher("tpe"))
    with monkeypatch.context() as patched:
        patched.setattr("copy.deepcopy", lambda value: pytest.fail("a deep copy"))
        searcher.restore(past)
    assert len(searcher._storage._ranked) == 2000


@pytest.mark.parametrize("sampler", [{}, {"use_separable_cma": True}], ids=["full", "separable"])
def test_the_state_of_cma_es_is_the_same_for_the_same_past_whatever_lay_in_memory(sampler: Mapping[str, Any]) -> None:
    cmaes = pytest.importorskip("cmaes")
    kind = cmaes.SepCMA if sampler else cmaes.CMA

    def after(generations: int, dirt: float) -> tuple[Any, Any]:
        optimizer = kind(mean=np.zeros(2), sigma=1.0, population_size=4, seed=1)
        optimizer._funhist_values[:] = dirt
        for _ in range(generations):
            points = [optimizer.ask() for _ in range(4)]
            optimizer.tell([(point, float(np.sum(point**2)) + 1) for point in points])
        attrs = {"cma:optimizer:0": pickle.dumps(optimizer).hex()}
        return _cma_state.to_json(attrs), optimizer._funhist_values

    window = 10 + math.ceil(30 * 2 / 4)
    for generations in (0, 1, 5, window - 1, window, window + 3):
        first, second = after(generations, 1e300), after(generations, -7.0)
        assert first[0] == second[0], f"after {generations} generations"
    kept = _cma_state._decode(after(window, 7.0)[0]["cma:optimizer"])._funhist_values
    assert np.array_equal(kept, after(window, 7.0)[1]), "what was written stays"
