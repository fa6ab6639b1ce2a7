"""PB2 and MF-PBT: populations beyond PBT."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest

from tune_platform import choice, loguniform, uniform
from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Clone, Continue
from tune_platform.schedulers.mf_pbt import MFPBT
from tune_platform.schedulers.pb2 import PB2, kernel, suggest
from tune_platform.schedulers.pbt import PBT
from tune_platform.space import Space
from tune_platform.testing.schedulers import FakeTrial, SchedulerContract


class TestPB2(SchedulerContract):
    def make_scheduler(self) -> PB2:
        return PB2(interval=2, mutations={"x": uniform(0, 1)}, quantile=0.5)


class TestMFPBT(SchedulerContract):
    def make_scheduler(self) -> MFPBT:
        return MFPBT(interval=1, frequencies=(1, 3), mutations={"x": uniform(0, 1)}, quantile=0.34)


# ------------------------------------------------------------------------------- PB2


def test_old_observations_fade() -> None:
    """By hand: the same place 4 apart in time, with e = 0.1: 0.9^2 = 0.81."""
    point = np.array([[0.3]])
    assert kernel(np.array([0.0]), point, np.array([4.0]), point, 0.5, 0.1)[0, 0] == pytest.approx(0.81)
    other = np.array([[0.8]])
    assert kernel(np.array([0.0]), point, np.array([0.0]), other, 0.5, 0.1)[0, 0] == pytest.approx(np.exp(-0.5))


def test_the_model_goes_where_gains_were_high() -> None:
    rng = np.random.default_rng(0)
    seen = [(float(t), (x,), -abs(x - 0.7)) for t in range(5) for x in rng.random(6)]
    found = [suggest(seen, [], 5.0, 1, np.random.default_rng(seed))[0] for seed in range(10)]
    assert all(abs(x - 0.7) < 0.15 for x in found), found


@pytest.mark.parametrize("now", [3.0, 30.0])
def test_a_member_that_is_behind_learns_from_those_ahead(now: float) -> None:
    """All that was seen lies ahead of it, or begins where it stands: the times have a scale all the same."""
    rng = np.random.default_rng(0)
    seen = [(30.0, (0.1,), -0.6), *((float(t), (x,), -abs(x - 0.7)) for t in (33, 36) for x in rng.random(8))]
    found = [suggest(seen, [], now, 1, np.random.default_rng(seed))[0] for seed in range(5)]
    assert all(abs(x - 0.7) < 0.15 for x in found), found


def test_members_are_not_sent_to_the_same_place() -> None:
    """Where another trains already there is less to learn: the second goes elsewhere."""
    seen = [(0.0, (0.5, 0.5), 0.0), (1.0, (0.5, 0.5), 0.0)]
    first = suggest(seen, [], 2.0, 2, np.random.default_rng(0))
    second = suggest(seen, [first], 2.0, 2, np.random.default_rng(0))
    assert np.linalg.norm(np.subtract(first, second)) > 0.3


def test_without_observations_it_draws() -> None:
    assert suggest([], [], 1.0, 2, np.random.default_rng(0)) == suggest([], [], 1.0, 2, np.random.default_rng(0))


def test_what_is_no_range_is_perturbed() -> None:
    space = Space({"lr": loguniform(0.001, 1), "act": choice(["relu", "tanh"]), "batch": choice([16, 32, 64])})
    scheduler = PB2(interval=1, quantile=0.5, resample=0)
    scheduler.prepare(space, ("loss",), ("min",))
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = [FakeTrial(n, {"lr": 0.1 / (n + 1), "act": "relu", "batch": 32}) for n in range(2)]
    for trial in trials:
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    verdict: Any = None
    for step in range(1, 6):
        for trial in trials:
            trial.last = Report(step, {"loss": 1.0 - 0.1 * step + trial.number}, 0.0)
            verdict = scheduler.on_report(trial, trial.last)
    assert isinstance(verdict, Clone)
    assert (verdict.config["act"], verdict.config["batch"]) in (("relu", 16), ("relu", 64))
    assert 0.001 <= verdict.config["lr"] <= 1
    assert "(chosen by the model)" in verdict.reason


def test_a_step_by_hand() -> None:
    """Algorithm 1's GP-UCB with a kernel that fades, on paper.

    A gain of -1 at x = 0 (time 0) and of 1 at x = 1 (now). They tell least about each other at l = 0.1, which is the
    likeliest; then near x = 1 only the second counts: with k = exp(-(1 - x)^2 / 0.02), noise 0.05 and beta_2 = 0.2,
        mean = k / 1.05,  variance = 1 - k^2 / 1.05,  d(mean + sqrt(0.2) deviation) / dk = 0
    where the deviation is sqrt(0.2) k, so k^2 = 1 / (1 / 1.05 + 0.2) and x = 1 - sqrt(-0.02 log k) = 0.9623.
    """
    seen = [(0.0, (0.0,), 0.0), (10.0, (1.0,), 2.0)]
    k = (1 / (1 / 1.05 + 0.2)) ** 0.5
    wanted = 1 - (-0.02 * np.log(k)) ** 0.5
    assert wanted == pytest.approx(0.9623, abs=1e-4)
    for seed in range(5):
        assert suggest(seen, [], 10.0, 1, np.random.default_rng(seed)) == pytest.approx([wanted], abs=2e-3)


def test_a_step_of_a_batch_by_hand() -> None:
    """One trains at x = 1 already: two looks there are one with half the noise, so the variance is 1 - k^2 / 1.025."""
    seen = [(0.0, (0.0,), 0.0), (10.0, (1.0,), 2.0)]
    x = np.linspace(0.5, 1, 50_001)
    k = np.exp(-((1 - x) ** 2) / 0.02)
    wanted = x[np.argmax(k / 1.05 + np.sqrt(0.2) * np.sqrt(1 - k**2 / 1.025))]
    assert abs(wanted - 0.9623) > 2e-3, "the other member makes a difference"
    assert suggest(seen, [(1.0,)], 10.0, 1, np.random.default_rng(0)) == pytest.approx([wanted], abs=2e-3)


def test_a_step_behind_all_that_was_seen_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fade is per tenth of the search from where this member stands: 10 to 30, so what was seen is 10 of 2 away.

    Seen once at x = 1, faded by c = 0.95^(10 / 2), and another trains there now: with K = (1.05 c; c 1.05) and the
    covariances (c k, k) the best is that of c k / 1.05 + sqrt(0.2) deviation.
    """
    monkeypatch.setattr("tune_platform.schedulers.pb2._LENGTHS", (0.1,))
    monkeypatch.setattr("tune_platform.schedulers.pb2._FADES", (0.05,))

    def best(age: float) -> float:
        c = 0.95 ** (age / 2)
        x = np.linspace(0.5, 1, 50_001)
        k = np.exp(-((1 - x) ** 2) / 0.02)
        explained = np.array([c, 1]) @ np.linalg.inv(np.array([[1.05, c], [c, 1.05]])) @ np.array([c, 1])
        return float(x[np.argmax(c * k / 1.05 + np.sqrt(0.2) * np.sqrt(1 - explained * k**2))])

    seen = [(20.0, (0.0,), 0.0), (30.0, (1.0,), 2.0)]
    assert abs(best(10) - best(20)) > 5e-3, "it matters from where tenths are counted"
    assert suggest(seen, [(1.0,)], 10.0, 1, np.random.default_rng(0)) == pytest.approx([best(10)], abs=2e-3)


def test_old_gains_are_forgotten_where_the_best_has_moved() -> None:
    """Long ago x = 0.2 gained, lately x = 0.8 does: the likeliest model lets the old fade, and goes to that side."""
    seen = [(float(t), (x,), float(x == (0.2 if t < 10 else 0.8))) for t in range(20) for x in (0.2, 0.5, 0.8)]
    found = [suggest(seen, [], 20.0, 1, np.random.default_rng(seed))[0] for seed in range(5)]
    assert all(x > 0.7 for x in found), found


def told(scheduler: PB2, losses: list[float], step: int, trials: list[FakeTrial]) -> dict[int, Any]:
    """Report a loss of each; return the verdicts, with the clones begun."""
    verdicts = {}
    for trial, loss in zip(trials, losses, strict=True):
        trial.last = Report(step, {"loss": loss}, 0.0)
        answer: Any = scheduler.on_report(trial, trial.last)
        if isinstance(answer, list):
            verdicts.update({decision.trial: decision.verdict for decision in answer})
        elif answer is not None:
            verdicts[trial.number] = answer
    return verdicts


def two(**options: Any) -> tuple[PB2, list[FakeTrial]]:
    scheduler = PB2(interval=1, quantile=0.5, mutations={"x": uniform(0, 1)}, **options)
    scheduler.prepare(Space({"x": uniform(0, 1)}), ("loss",), ("min",))
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = [FakeTrial(n, {"x": 0.25 + n / 2}) for n in range(2)]
    for trial in trials:
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    return scheduler, trials


def test_the_jump_of_a_clone_is_no_gain() -> None:
    """By hand: 1 stands at 9, takes over weights of loss 5 and comes to 4: its new x has gained 1, not 5."""
    scheduler, trials = two()
    clone = told(scheduler, [5.0, 9.0], 1, trials)[1]
    assert isinstance(clone, Clone)
    trials[1].config = clone.config
    scheduler.on_start(trials[1])
    told(scheduler, [4.5, 4.0], 2, trials)
    assert [row[2] for row in scheduler.state()["seen"]] == [0.5, 1.0]


def test_the_gain_of_a_clone_that_was_not_made_counts_from_its_own_loss() -> None:
    """By hand: 1 was to take over weights of loss 5 and could not; it has come from 9 to 7 by its own x."""
    scheduler, trials = two()
    assert isinstance(told(scheduler, [5.0, 9.0], 1, trials)[1], Clone)
    told(scheduler, [4.5, 7.0], 2, trials)
    assert [(row[1], row[2]) for row in scheduler.state()["seen"]] == [((0.25,), 0.5), ((0.75,), 2.0)]


def test_a_clone_ranks_by_its_own_last_evaluation_until_the_next() -> None:
    """In a generation of four with half replaced, two are: those already judged do not push others down."""
    scheduler = PB2(interval=1, quantile=0.5, mutations={"x": uniform(0, 1)}, synchronous=True)
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = [FakeTrial(n, {"x": n / 4}) for n in range(4)]
    for trial in trials:
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    scheduler.on_supply_end()
    verdicts = told(scheduler, [4.0, 3.0, 2.0, 1.0], 1, trials)
    assert [number for number, verdict in sorted(verdicts.items()) if isinstance(verdict, Clone)] == [0, 1]


def test_those_of_one_generation_know_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials 0 and 1 are cloned in the same turn: the second is chosen knowing where the first will train."""
    chosen, told_of = [], []

    def noted(seen: Any, others: Any, now: float, size: int, draw: Any) -> list[float]:
        told_of.append([list(other) for other in others])
        chosen.append(suggest(seen, others, now, size, draw))
        return chosen[-1]

    monkeypatch.setattr("tune_platform.schedulers.pb2.suggest", noted)
    scheduler = PB2(interval=1, quantile=0.5, mutations={"x": uniform(0, 1)}, synchronous=True, burn_in=2)
    scheduler.prepare(Space({"x": uniform(0, 1)}), ("loss",), ("min",))
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = [FakeTrial(n, {"x": n / 4}) for n in range(4)]
    for trial in trials:
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    scheduler.on_supply_end()
    told(scheduler, [4.0, 3.0, 2.0, 1.0], 1, trials)
    told(scheduler, [3.0, 2.5, 1.5, 0.5], 2, trials)
    assert len(chosen) == 2
    assert chosen[0] in told_of[1]
    assert [0.0] not in told_of[1], "not where it is just leaving"


def climb(scheduler: PBT, seed: int, steps: int = 60, members: int = 4) -> float:
    """Climb a slope whose best rate moves with time: a step gains 1 - 4 (rate - best)^2. Return the highest sum."""
    space = Space({"rate": uniform(0, 1)})
    scheduler.prepare(space, ("height",), ("max",))
    scheduler.setup(metric="height", mode="max", seed=seed)
    rng = np.random.default_rng(seed)
    trials = [FakeTrial(n, {"rate": float(rng.random())}) for n in range(members)]
    height = [0.0] * members
    for trial in trials:
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    for step in range(1, steps + 1):
        best = 0.2 + 0.6 * step / steps
        for trial in trials:
            height[trial.number] += 1 - 4 * (trial.config["rate"] - best) ** 2 + 0.05 * rng.standard_normal()
            trial.last = Report(step, {"height": height[trial.number]}, 0.0)
            verdict = scheduler.on_report(trial, trial.last)
            if isinstance(verdict, Clone):
                height[trial.number], trial.config = height[verdict.source], verdict.config
                scheduler.on_start(trial)
    return max(height)


def test_a_bandit_beats_perturbation_with_few_members() -> None:
    """The paper's claim, in shape: four members, 12 seeds, a best rate that moves."""
    gains = [
        climb(PB2(interval=3, quantile=0.25), seed) - climb(PBT(interval=3, quantile=0.25), seed) for seed in range(12)
    ]
    assert statistics.fmean(gains) > 0, gains


# ------------------------------------------------------------------------------- MF-PBT


def generation(scheduler: MFPBT, losses: dict[int, float], step: int, trials: dict[int, FakeTrial]) -> dict[int, Any]:
    decisions: Any = []
    for number, loss in losses.items():
        trials[number].last = Report(step, {"loss": loss}, 0.0)
        decisions = scheduler.on_report(trials[number], trials[number].last)  # type: ignore[arg-type]
    return {decision.trial: decision.verdict for decision in decisions}


def population(**options: Any) -> tuple[MFPBT, dict[int, FakeTrial]]:
    """Eight members, four in each sub-population: even numbers evolve at each interval, odd ones at each second."""
    given = {"interval": 1, "frequencies": (1, 2), "mutations": {"x": uniform(0, 1)}, "resample": 0, "factors": [1.2]}
    scheduler = MFPBT(**{**given, **options})
    scheduler.setup(metric="loss", mode="min", seed=0)
    trials = {n: FakeTrial(n, {"x": n / 100}) for n in range(8)}
    for trial in trials.values():
        scheduler.on_add(trial)
        scheduler.on_start(trial)
    scheduler.on_supply_end()
    return scheduler, trials


def test_sub_populations_evolve_at_their_own_frequency() -> None:
    """By hand. Even: 0 < 2 < 4 < 6; the slow odd ones are all better: 4 takes the best of them, with its config."""
    scheduler, trials = population()
    losses = {0: 10.0, 2: 11.0, 4: 12.0, 6: 13.0, 1: 1.0, 3: 2.0, 5: 3.0, 7: 4.0}
    verdicts = generation(scheduler, losses, 1, trials)
    clones = {number: verdict for number, verdict in verdicts.items() if isinstance(verdict, Clone)}
    assert sorted(clones) == [4, 6], "the slow ones go on"
    assert (clones[6].source, clones[6].config) == (0, {"x": pytest.approx(0.0)})
    assert (clones[4].source, clones[4].config) == (1, {"x": 0.01}), "from slower ones the config comes along, as it is"
    assert "migration from 1, with its config" in clones[4].reason


def test_from_faster_ones_only_the_weights_come() -> None:
    scheduler, trials = population()
    losses = {0: 1.0, 2: 2.0, 4: 3.0, 6: 4.0, 1: 10.0, 3: 11.0, 5: 12.0, 7: 13.0}
    generation(scheduler, losses, 1, trials)
    verdicts = generation(scheduler, losses, 2, trials)
    assert isinstance(verdicts[5], Clone)
    assert (verdicts[5].source, verdicts[5].config) == (0, {"x": 0.01}), "the config is that of its own best, trial 1"
    assert (verdicts[7].source, verdicts[7].config["x"]) == (1, pytest.approx(0.012))
    assert isinstance(verdicts[3], Continue)


def test_who_is_better_than_all_abroad_takes_nobody() -> None:
    scheduler, trials = population()
    verdicts = generation(scheduler, {n: float(n + 10 * (n % 2)) for n in (0, 2, 4, 6, 1, 3, 5, 7)}, 1, trials)
    assert isinstance(verdicts[4], Continue)


@pytest.mark.parametrize("frequencies", [(1,), (2, 1), (1, 1), (0, 2), (1, 2.5), "12"])
def test_bad_frequencies(frequencies: Any) -> None:
    with pytest.raises(SpecError, match="mf_pbt: frequencies must be two or more whole numbers that rise"):
        MFPBT(interval=1, frequencies=frequencies)


def test_a_model_with_nothing_to_choose_is_refused() -> None:
    with pytest.raises(SpecError, match="pb2: no parameter that may change is a number of a range: use pbt"):
        PB2(interval=1).prepare(Space({"act": choice(["relu", "tanh"])}), ("loss",), ("min",))


def test_bad_options_name_the_scheduler() -> None:
    with pytest.raises(SpecError, match="pb2: quantile"):
        PB2(interval=1, quantile=0.7)
    with pytest.raises(SpecError, match="mf_pbt: interval"):
        MFPBT(interval=0)
