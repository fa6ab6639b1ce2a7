"""Population based training."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tune_platform import SearchSpec, choice, loguniform, quniform, randint, uniform, when
from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Pause, Stop
from tune_platform.schedulers._explore import Explorer
from tune_platform.schedulers.pbt import PBT
from tune_platform.space import Space
from tune_platform.testing.schedulers import FakeCandidates, FakeTrial, SchedulerContract


class TestPBT(SchedulerContract):
    def make_scheduler(self) -> PBT:
        return PBT(interval=2, mutations={"x": uniform(0, 1)})


class TestTournament(SchedulerContract):
    increment = 0.7

    def make_scheduler(self) -> PBT:
        return PBT(
            resource="hours", interval=1.5, mutations={"x": uniform(0, 1)}, selection="binary_tournament",
            burn_in=2, max=20,
        )  # fmt: skip


class TestSynchronousPBT(SchedulerContract):
    def make_scheduler(self) -> PBT:
        return PBT(interval=3, mutations={"x": uniform(0, 1)}, synchronous=True, quantile=0.5)


def members(scheduler: PBT, count: int) -> dict[int, FakeTrial]:
    """Members that have a place, and have not reported."""
    trials = {number: FakeTrial(number, {"x": number / 10}, status="running") for number in range(count)}
    for trial in trials.values():
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    return trials


def told(scheduler: PBT, trial: FakeTrial, step: int, loss: float) -> Any:
    trial.last = Report(step, {"loss": loss}, 0.0)
    return scheduler.on_report(trial, trial.last)


def pbt(**options: Any) -> PBT:
    scheduler = PBT(**{"interval": 5, "mutations": {"x": uniform(0, 1)}, **options})
    scheduler.setup(metric="loss", mode="min", seed=0)
    return scheduler


def test_truncation_copies_from_the_upper_into_the_lower_quantile() -> None:
    """Of 8 members with quantile 25 % the worst two take the weights of one of the best two; nobody else."""
    scheduler = pbt()
    trials = members(scheduler, 8)
    assert scheduler.until(trials[0]) == (5, True)
    for number in range(7):
        told(scheduler, trials[number], 5, float(number))
    for number in (0, 3, 5):
        assert told(scheduler, trials[number], 9, 99.0) is None, "between two evaluations"
        verdict = told(scheduler, trials[number], 10, float(number))
        assert verdict == Continue(until=15, save=True, reason=f"rank {number + 1}/7")
    verdict = told(scheduler, trials[7], 10, 7.0)
    assert isinstance(verdict, Clone)
    assert verdict.source in (0, 1)
    assert (verdict.until, verdict.save) == (15, True)
    at = 10 if verdict.source == 0 else 5
    assert verdict.reason.startswith(f"cloned from trial {verdict.source} at step {at} (rank 8/8, quantile 25%)")


def test_what_was_explored_is_told_in_words() -> None:
    scheduler = pbt(resample=0, factors=[1.2])
    trials = members(scheduler, 4)
    for number in range(4):
        told(scheduler, trials[number], 5, abs(number - 1))
    verdict = told(scheduler, trials[3], 10, 3.0)
    assert isinstance(verdict, Clone)
    assert (verdict.source, verdict.config) == (1, {"x": pytest.approx(0.12)})
    assert verdict.reason == "cloned from trial 1 at step 5 (rank 4/4, quantile 25%); x 0.1 -> 0.12 (perturbed x1.2)"


def test_the_config_of_a_source_is_the_one_it_trains_with() -> None:
    """It was a clone itself meanwhile: its new config is copied, not its first."""
    scheduler = pbt(resample=0, factors=[1.0], quantile=0.5)
    trials = members(scheduler, 2)
    told(scheduler, trials[0], 5, 0.5)
    trials[0].config = {"x": 0.77}
    scheduler.on_start(trials[0])
    verdict = told(scheduler, trials[1], 5, 0.9)
    assert isinstance(verdict, Clone)
    assert verdict.config == {"x": 0.77}


def test_nobody_is_replaced_while_it_burns_in() -> None:
    scheduler = pbt(burn_in=10, quantile=0.5)
    trials = members(scheduler, 2)
    told(scheduler, trials[0], 5, 0.1)
    verdict = told(scheduler, trials[1], 5, 0.9)
    assert verdict == Continue(until=10, save=True, reason="rank 2/2, burning in until step 10")
    assert isinstance(told(scheduler, trials[1], 10, 0.9), Clone)


def test_a_tournament_is_lost_against_a_better_one_only() -> None:
    scheduler = pbt(selection="binary_tournament")
    trials = members(scheduler, 5)
    for number in range(5):
        told(scheduler, trials[number], 5, float(number))
    assert isinstance(told(scheduler, trials[4], 10, 9.0), Clone)
    verdict = told(scheduler, trials[0], 10, 0.0)
    assert isinstance(verdict, Continue)
    assert "tournament with trial" in verdict.reason
    beaten = [told(scheduler, trials[2], step, 2.0) for step in range(10, 300, 5)]
    assert 10 < sum(isinstance(one, Clone) for one in beaten) < 50, "half of the others are better"


def test_a_maximum_ends_a_member() -> None:
    scheduler = pbt(max=12)
    trials = members(scheduler, 1)
    told(scheduler, trials[0], 10, 1.0)
    assert scheduler.until(trials[0]) == (12, True)
    assert told(scheduler, trials[0], 12, 1.0) == Stop(reason="step 12: reached max", completed=True)


def test_one_that_is_ahead_lets_those_without_a_place_catch_up() -> None:
    scheduler = pbt()
    trials = {number: FakeTrial(number, {"x": 0.5}) for number in range(2)}
    for trial in trials.values():
        scheduler.on_add(trial)
    assert scheduler.choose(FakeCandidates(trials)) == 0
    scheduler.on_start(trials[0])
    trials[0].status = "running"
    assert isinstance(told(scheduler, trials[0], 5, 1.0), Pause)
    trials[0].status = "paused"
    assert scheduler.choose(FakeCandidates(trials)) == 1, "it is at 0, the other at 5"
    scheduler.on_start(trials[1])
    trials[1].status = "running"
    assert isinstance(told(scheduler, trials[1], 5, 2.0), Continue), "level with the other, it may go on"


def test_a_generation_is_judged_at_once() -> None:
    """By hand: four members, quantile 25 %: the last takes from the first when all have arrived, in any order."""
    scheduler = pbt(synchronous=True)
    trials = members(scheduler, 4)
    scheduler.on_supply_end()
    for number in (2, 0, 3):
        assert [type(d.verdict) for d in told(scheduler, trials[number], 5, float(number))] == [Pause]
    decisions = told(scheduler, trials[1], 5, 1.0)
    assert [decision.trial for decision in decisions] == [0, 1, 2, 3]
    assert isinstance(decisions[3].verdict, Clone)
    assert decisions[3].verdict.source == 0
    assert decisions[0] == Decision(0, Continue(until=10, save=True, reason="generation 1: rank 1/4"))
    assert [scheduler.until(trial) for trial in trials.values()] == [(10, True)] * 4


def test_an_end_closes_a_generation() -> None:
    scheduler = pbt(synchronous=True)
    trials = members(scheduler, 3)
    scheduler.on_supply_end()
    told(scheduler, trials[0], 5, 0.0)
    told(scheduler, trials[1], 5, 1.0)
    decisions: Any = scheduler.on_end(trials[2], "failed")
    assert [decision.trial for decision in decisions] == [0, 1]


# ------------------------------------------------------------------------------- explore


def explorer(space: Any, mutations: Any = None, constraints: Any = (), **options: Any) -> Explorer:
    found = Explorer("pbt", mutations, **{"resample": 0.0, "factors": (1.2, 0.8), **options})
    found.bind(Space(space, constraints))
    return found


def draws(one: Explorer, config: Mapping[str, Any], count: int = 200) -> list[dict[str, Any]]:
    return [dict(one.explore(config, np.random.default_rng(seed))[0]) for seed in range(count)]


def test_numbers_are_multiplied_and_stay_in_their_range() -> None:
    space = {"lr": loguniform(0.01, 0.1), "n": randint(1, 100), "fixed": 3}
    found = draws(explorer(space), {"lr": 0.09, "n": 10, "fixed": 3})
    assert {round(one["lr"], 6) for one in found} == {0.1, 0.072}
    assert {one["n"] for one in found} == {8, 12}
    assert {one["fixed"] for one in found} == {3}


def test_numbers_with_a_step_stay_on_it() -> None:
    """By hand: 1.2 and 0.8 times 3 are 3.6 and 2.4; of 1, 1.5, 2 ... the nearest are 3.5 and 2.5."""
    assert {one["x"] for one in draws(explorer({"x": quniform(1, 5, 0.5)}), {"x": 3.0})} == {2.5, 3.5}


def test_small_counts_change_by_one_at_least() -> None:
    found = draws(explorer({"n": randint(1, 100)}), {"n": 1})
    assert {one["n"] for one in found} == {1, 2}
    assert {one["n"] for one in draws(explorer({"n": randint(1, 100)}), {"n": 2})} == {1, 3}


def test_ordered_choices_move_to_a_neighbour_and_others_only_by_a_draw() -> None:
    space = {"batch": choice([16, 32, 64, 128]), "act": choice(["relu", "tanh"])}
    found = draws(explorer(space), {"batch": 32, "act": "relu"})
    assert {one["batch"] for one in found} == {16, 64}
    assert {one["act"] for one in found} == {"relu"}
    drawn = draws(explorer(space, resample=1.0), {"batch": 32, "act": "relu"})
    assert {one["batch"] for one in drawn} == {16, 32, 64, 128}
    assert {one["act"] for one in drawn} == {"relu", "tanh"}


def test_mutations_choose_parameters_and_ranges() -> None:
    space = {"lr": loguniform(0.01, 1), "momentum": uniform(0, 1), "depth": choice([1, 2])}
    mutations = {"lr": uniform(0.5, 2), "depth": lambda value: 3 - value, "momentum": None}
    found = draws(explorer(space, mutations), {"lr": 0.6, "momentum": 0.5, "depth": 1})
    assert {round(one["lr"], 6) for one in found} == {0.72, 0.5}, "its own range, at whose end it stops"
    assert {round(one["lr"], 6) for one in draws(explorer(space, mutations), {"lr": 1.0, "depth": 1})} == {0.8, 1.0}
    assert {one["depth"] for one in found} == {2}
    assert {round(one["momentum"], 6) for one in found} == {0.6, 0.4}
    only = draws(explorer(space, {"lr": None}), {"lr": 0.05, "momentum": 0.5, "depth": 1})
    assert {one["momentum"] for one in only} == {0.5}


def test_a_function_may_draw() -> None:
    space = {"lr": uniform(0, 1)}
    found = draws(explorer(space, {"lr": lambda value, rng: value + rng.integers(2) / 4}), {"lr": 0.5})
    assert {one["lr"] for one in found} == {0.5, 0.75}


def test_what_is_never_in_the_space_leaves_the_config_as_it_is() -> None:
    space = {"act": choice(["relu", "tanh"])}
    assert explorer(space, {"act": str.upper}).explore({"act": "relu"}, np.random.default_rng(0)) == (
        {"act": "relu"},
        [],
    )


def test_constraints_hold_after_explore() -> None:
    space = {"low": uniform(0, 1), "high": uniform(0, 1)}
    found = draws(explorer(space, constraints=["low < high"]), {"low": 0.5, "high": 0.55})
    assert all(one["low"] < one["high"] for one in found)
    assert len({(one["low"], one["high"]) for one in found}) > 1


def test_a_branch_that_is_left_takes_its_parameters_along() -> None:
    """Conditional spaces: what the new branch needs is drawn, what the old one had is gone."""
    space = {
        "optimizer": choice(["sgd", "adam"]),
        "momentum": when(uniform(0, 1), {"optimizer": "sgd"}),
        "beta": when(uniform(0.9, 0.999), {"optimizer": "adam"}),
    }
    config = {"optimizer": "sgd", "momentum": 0.5}
    for one in draws(explorer(space, resample=0.5), config):
        assert ("momentum" in one) == (one["optimizer"] == "sgd"), one
        assert ("beta" in one) == (one["optimizer"] == "adam"), one


def test_a_function_of_the_whole_config_has_the_last_word() -> None:
    def both(config: dict[str, Any]) -> dict[str, Any]:
        config["deep"]["n"] = round(10 * config["lr"])
        config["act"] = "relu"
        return config

    space = {"lr": uniform(0, 1), "deep": {"n": randint(1, 8)}, "act": choice(["relu", "tanh"]), "fixed": 3}
    before: dict[str, Any] = {"lr": 0.5, "deep": {"n": 2}, "act": "tanh", "fixed": 3}
    one = explorer(space, {"lr": None}, whole=both)
    found = draws(one, before)
    assert {(round(each["lr"], 6), each["deep"]["n"], each["act"], each["fixed"]) for each in found} == {
        (0.6, 6, "relu", 3),
        (0.4, 4, "relu", 3),
    }
    assert before == {"lr": 0.5, "deep": {"n": 2}, "act": "tanh", "fixed": 3}, "it had a copy"
    _, said = one.explore(before, np.random.default_rng(0))
    assert said[1:] == [f"deep/n 2 -> {found[0]['deep']['n']} (by explore)", "act tanh -> relu (by explore)"]
    assert {each["deep"]["n"] for each in draws(one, {**before, "lr": 0.9})} == {7}, "cut off at the end of the range"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "explore must return a config, got None"),
        ({"lr": 0.5, "act": "gelu"}, "explore gave a config that is not in the search space: act='gelu' is not in"),
    ],
)
def test_what_such_a_function_must_not_return(answer: Any, told: str) -> None:
    one = explorer({"lr": uniform(0, 1), "act": choice(["relu", "tanh"])}, whole=lambda config: answer)
    with pytest.raises(SpecError, match=re.escape(f"pbt: {told}")):
        one.explore({"lr": 0.5, "act": "relu"}, np.random.default_rng(0))
    with pytest.raises(SpecError, match="explore must be a function, config -> config, got 3"):
        PBT(interval=1, explore=3)  # type: ignore[arg-type]


def test_explore_is_a_function_of_the_seed() -> None:
    one = explorer({"lr": loguniform(0.01, 0.1)}, resample=0.5)
    assert draws(one, {"lr": 0.05}, 20) == draws(one, {"lr": 0.05}, 20)


# ------------------------------------------------------------------------------- the paper's toy (figure 2)


def toy(*, exploit: bool, explore: bool, seed: int, steps: int = 100, interval: int = 4) -> float:
    """Maximise 1.2 - (a^2 + b^2) by steps on 1.2 - (h0 a^2 + h1 b^2), with two members; return the best Q at the end.

    Each member sees one of the two parameters only: h is (1, 0) for one and (0, 1) for the other.
    """
    space = Space({"h0": uniform(0, 1), "h1": uniform(0, 1)})
    scheduler = PBT(
        interval=interval, quantile=0.5, resample=0.25 if explore else 0, factors=(1.2, 0.8) if explore else (1,)
    )
    scheduler.prepare(space, ("q",), ("max",))
    scheduler.setup(metric="q", mode="max", seed=seed)
    alone = Explorer("pbt", None, resample=0.25, factors=(1.2, 0.8))
    alone.bind(space)
    configs: list[Any] = [{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}]
    weights = [np.array([0.9, 0.9]), np.array([0.9, 0.9])]
    trials = [FakeTrial(number, config, status="running") for number, config in enumerate(configs)]
    for trial in trials:
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    best = 0.0
    for step in range(1, steps + 1):
        for number, trial in enumerate(trials):
            h = np.array([trial.config["h0"], trial.config["h1"]])
            weights[number] = weights[number] - 0.01 * 2 * h * weights[number]
            q = 1.2 - float((weights[number] ** 2).sum())
            best = max(best, q)
            trial.last = Report(step, {"q": q}, 0.0)
            if exploit:
                verdict = scheduler.on_report(trial, trial.last)
                if isinstance(verdict, Clone):
                    weights[number], trial.config = weights[verdict.source].copy(), verdict.config
                    scheduler.on_start(trial)
            elif explore and step % interval == 0:
                trial.config = alone.explore(trial.config, np.random.default_rng([seed, number, step]))[0]
    return best


def test_the_four_curves_of_figure_2_come_in_the_papers_order() -> None:
    """PBT, explore only, exploit only, grid: means of 30 seeds after 100 steps, ready every 4."""
    means = {
        name: statistics.fmean(toy(exploit=exploit, explore=explore, seed=seed) for seed in range(30))
        for name, exploit, explore in (
            ("pbt", True, True), ("explore", False, True), ("exploit", True, False), ("grid", False, False),
        )
    }  # fmt: skip
    assert means["pbt"] > means["explore"] > means["exploit"] >= means["grid"], means
    assert means["grid"] == pytest.approx(0.38, abs=0.03), "one parameter is never trained"
    assert means["pbt"] > 0.95


# ------------------------------------------------------------------------------- whole searches


def spec(**scheduler: Any) -> SearchSpec:
    return SearchSpec(
        trainable="tests.support:quadratic",
        param_space={"lr": uniform(0, 1)},
        metric="loss",
        mode="min",
        scheduler={"name": "pbt", "interval": 5, **scheduler},
    )


def test_a_mutation_of_no_parameter_is_refused_by_the_spec() -> None:
    with pytest.raises(SpecError, match=r"mutations name 'lrr', which is no parameter of the space .did you mean 'lr'"):
        spec(mutations={"lrr": None})


def test_it_is_written_to_a_file_and_read_back() -> None:
    first = spec(mutations={"lr": {"type": "float", "low": 0.1, "high": 0.2}}, quantile=0.5)
    again = SearchSpec.from_dict(first.to_dict())
    assert again.fingerprint() == first.fingerprint()
    scheduler: Any = again.make_scheduler()
    assert (scheduler.quantile, scheduler.interval) == (0.5, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interval": 0}, "interval .* must be above 0, got 0"),
        ({"quantile": 0.6}, "quantile .* at most 0.5, got 0.6"),
        ({"quantile": 0}, "quantile .* must be above 0"),
        ({"burn_in": -1}, "burn_in .* got -1"),
        ({"selection": "best"}, "selection must be truncation or binary_tournament, got 'best'"),
        ({"resample": 2}, "resample .* must be from 0 to 1, got 2"),
        ({"factors": [0]}, "factors must be numbers above 0"),
        ({"factors": 1.2}, "factors must be numbers above 0"),
        ({"mutations": {"x": 3}}, "mutations.x: got 3; a domain, a list of values"),
        ({"mutations": ["x"]}, "mutations must map parameters"),
        (
            {"mutations": {"x": {"type": "flaot"}}},
            "mutations.x: there is no parameter type 'flaot' .did you mean 'float'",
        ),
        ({"synchronous": "yes"}, "synchronous must be true or false"),
        ({"interval": "5"}, "interval must be a number, got '5'"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=f"pbt: {said}"):
        PBT(**{"interval": 5, **options})


@pytest.mark.parametrize(
    "way", [uniform(5, 10), [5.0, 7.0], {"type": "int", "low": 2, "high": 3}], ids=["range", "list", "file"]
)
def test_a_mutation_that_the_space_never_takes_is_refused(way: Any) -> None:
    space = Space({"x": uniform(0, 1), "act": choice(["relu", "tanh"])})
    with pytest.raises(SpecError, match=r"pbt: mutations.x .* has no value of the space's own, "):
        PBT(interval=5, mutations={"x": way}).prepare(space, ("loss",), ("min",))
    with pytest.raises(SpecError, match=r"pbt: mutations.act "):
        PBT(interval=5, mutations={"act": ["gelu"]}).prepare(space, ("loss",), ("min",))
    PBT(interval=5, mutations={"x": uniform(0.5, 10), "act": ["relu", "gelu"]}).prepare(space, ("loss",), ("min",))


def test_truncation_by_hand() -> None:
    """Of ten members with 20 %, the paper's share, the worst two copy one of the best two, times 1.2 or 0.8."""
    scheduler = PBT(interval=1, quantile=0.2, resample=0, mutations={"x": uniform(0, 1)}, synchronous=True)
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = members(scheduler, 10)
    for number, trial in trials.items():
        trial.config = {"x": (number + 1) / 100}
        scheduler.on_start(trial)
    scheduler.on_supply_end()
    decisions: Any = []
    for number in range(10):
        decisions = told(scheduler, trials[number], 1, float(number))
    clones = {d.trial: d.verdict for d in decisions if isinstance(d.verdict, Clone)}
    assert sorted(clones) == [8, 9]
    for verdict in clones.values():
        x = {0: 0.01, 1: 0.02}[verdict.source]
        assert verdict.config["x"] in (pytest.approx(1.2 * x), pytest.approx(0.8 * x))
