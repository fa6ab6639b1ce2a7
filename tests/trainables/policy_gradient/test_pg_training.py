"""Training: one update of each algorithm, exact resume, clones, and the messages."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tune_platform.trainable import TrialContext
from tune_platform.trainables.policy_gradient import PolicyGradientTrainable, Settings, gradient, paper_settings, ppo
from tune_platform.trainables.policy_gradient.policies import Categorical, Gaussian, flat_parameters
from tune_platform.trainables.policy_gradient.ppo import clipped_surrogate, entropy_bonus, standardised
from tune_platform.trainables.policy_gradient.training import STATE_FILE, Training, load_agent
from tune_platform.trainables.policy_gradient.trpo import policy_step
from tune_platform.trainables.schedules import rate_factor

SMALL = {"pairs": 128, "envs": 2, "minibatches": 4, "epochs": 2, "hidden": [16], "eval_episodes": 2, "test_episodes": 2}
CARTPOLE = {**SMALL, "env_id": "CartPole-v1", "iterations": 4}
PENDULUM = {**SMALL, "env_id": "Pendulum-v1", "iterations": 4, "algorithm": "trpo", "clip_rewards": 5}
HOPPER = {**SMALL, "env_id": "Hopper-v5", "iterations": 4}
MACHINE = ("steps_per_s", "collect_s", "update_s")


def make(config: dict[str, Any], seed: int = 3) -> PolicyGradientTrainable:
    trainable = PolicyGradientTrainable(TrialContext(seed=seed, resources={"cpu": 1}))
    trainable.setup(config)
    return trainable


def steps(trainable: PolicyGradientTrainable, count: int) -> list[dict[str, Any]]:
    """The reports, without what is a matter of the machine."""
    reports = [trainable.step() for _ in range(count)]
    return [{name: value for name, value in report.items() if name not in MACHINE} for report in reports]


def weights(trainable: PolicyGradientTrainable) -> torch.Tensor:
    agent = trainable.training.agent
    return torch.cat([flat_parameters(agent.policy), flat_parameters(agent.value)])


# ------------------------------------------------------------------------------------------ updates


def test_before_the_first_step_nothing_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """In PPO's first minibatch every ratio is one, however narrow the clip; later ones leave it."""
    clipped: list[float] = []

    def note(ratio: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
        clipped.append(float(((ratio.detach() - 1).abs() > clip).double().mean()))
        return clipped_surrogate(ratio, advantages, clip)

    monkeypatch.setattr(ppo, "clipped_surrogate", note)
    for config in (CARTPOLE, HOPPER):
        clipped.clear()
        training = Training(Settings.of({**config, "clip": 1e-4, "lr": 1e-3}), 0)
        metrics = training.iteration()
        assert len(clipped) == SMALL["minibatches"] * SMALL["epochs"]  # type: ignore[operator]
        assert clipped[0] == 0
        assert max(clipped) > 0.1
        assert metrics["clip_fraction"] > 0.1
    frozen = Training(Settings.of({**CARTPOLE, "lr": 1e-30}), 0)
    assert frozen.iteration()["clip_fraction"] == 0


@pytest.mark.parametrize("change", [lambda rewards: 7.0 * rewards, lambda rewards: 0.01 * rewards], ids=["7", "0.01"])
def test_scaled_rewards_leave_the_direction_of_the_gradient(change: Callable[[np.ndarray], np.ndarray]) -> None:
    training = Training(Settings.of({**CARTPOLE, "baseline": "zero", "gae_lambda": 1.0}), 0)
    agent, batch = training.agent, training.collect()
    with torch.no_grad():  # returns without bootstraps, so that all of them are scaled
        for parameter in agent.value.parameters():
            parameter.zero_()
    noisy = batch.rewards + np.random.default_rng(0).normal(size=batch.rewards.shape)
    one, other = (
        gradient.gradient_of(agent, [batch], [agent.returns(dataclasses.replace(batch, rewards=rewards))])
        for rewards in (noisy, change(noisy))
    )
    assert np.abs(one).max() > 1e-4
    assert other == pytest.approx(one, abs=1e-5 * float(np.abs(one).max()) + 1e-7)


def test_a_constant_added_to_the_returns_leaves_the_gradient_and_the_update() -> None:
    """Advantages are standardised, with the zero baseline too."""
    settings = Settings.of({**CARTPOLE, "baseline": "zero"})
    training = Training(settings, 0)
    agent, batch = training.agent, training.collect()
    returns = agent.returns(batch)
    one, other = (gradient.gradient_of(agent, [batch], [values]) for values in (returns, returns + 5.0))
    assert other == pytest.approx(one, abs=1e-6)
    data = agent.data(batch)
    steps = []
    for added in (0.0, 5.0):
        learner = copy.deepcopy(agent)
        shifted = dataclasses.replace(data, advantages=data.advantages + added)
        ppo.update(learner.policy, learner.value, shifted, learner.optimiser, settings, learner.generator)
        steps.append(flat_parameters(learner.policy) - flat_parameters(agent.policy))
    assert float(steps[0].norm()) > 1e-4
    torch.testing.assert_close(steps[1], steps[0], atol=1e-2 * float(steps[0].abs().max()), rtol=0)


@pytest.mark.parametrize("config", [CARTPOLE, HOPPER])
def test_first_ratio_is_one_and_normalisers_run_while_training_only(config: dict[str, Any]) -> None:
    training = Training(Settings.of({**config, "clip": 0.2}), 0)
    metrics = training.iteration()
    assert metrics["first_ratio_error"] < 1e-5
    assert metrics["kl"] > 0
    assert training.agent.normaliser.stats.count == 128
    training.evaluate("evaluation", 2)
    assert training.agent.normaliser.stats.count == 128
    assert training.agent.scaler.stats.count == 128
    training.iteration()
    assert training.agent.normaliser.stats.count == 256


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_trust_region_step_keeps_its_bound_and_improves(env_id: str) -> None:
    training = Training(Settings.of({**PENDULUM, "env_id": env_id, "pairs": 400, "fisher_fraction": 1.0}), 0)
    for delta in (0.3, 0.01, 0.001):
        data = training.agent.data(training.collect())
        policy = training.agent.policy
        with torch.no_grad():
            old = policy(data.observations).detach()
            old_log_probs = old.log_prob(data.actions)
        outcome = policy_step(policy, data, training.settings, delta, training.agent.generator)
        with torch.no_grad():
            new = policy(data.observations)
            ratio = torch.exp(new.log_prob(data.actions) - old_log_probs)
            divergence = float(old.kl(new).mean())
        gain = float((ratio * standardised(data.advantages)).mean() - standardised(data.advantages).mean())
        assert outcome["surrogate_gain"] == pytest.approx(gain, abs=1e-5)
        assert gain > 0
        assert divergence <= delta * (1 + 1e-4)


def test_trust_region_counts_a_change_of_the_standard_deviation() -> None:
    """Shrinking it costs more than the quadratic model says: the full step leaves the region, and must be halved."""
    training = Training(Settings.of({**PENDULUM, "pairs": 400, "fisher_fraction": 1.0, "damping": 1e-6}), 0)
    data = training.agent.data(training.collect())
    policy = training.agent.policy
    with torch.no_grad():
        old = policy(data.observations).detach()
    distance = ((data.actions - old.mean) / old.log_std.exp())[:, 0]
    outcome = policy_step(policy, dataclasses.replace(data, advantages=-(distance**2)), training.settings, 0.25,
                          training.agent.generator)  # fmt: skip
    with torch.no_grad():
        new = policy(data.observations)
        assert 0.01 < float(old.kl(new).mean()) <= 0.25
        assert float(new.log_std) < float(old.log_std) - 0.05
    assert outcome["backtracks"] >= 1


def test_trust_region_stays_where_nothing_improves() -> None:
    training = Training(Settings.of(PENDULUM), 0)
    data = training.agent.data(training.collect())
    start = flat_parameters(training.agent.policy)
    flat = dataclasses.replace(data, advantages=torch.zeros_like(data.advantages))
    outcome = policy_step(training.agent.policy, flat, training.settings, 0.1, training.agent.generator)
    assert outcome["surrogate_gain"] == 0
    assert torch.equal(flat_parameters(training.agent.policy), start)


def test_learning_rates_are_annealed_to_zero_and_switches_switch() -> None:
    training = Training(Settings.of({**CARTPOLE, "lr": 1e-3, "value_lr": 5e-4}), 0)
    rates: list[list[float]] = []
    for _ in range(4):
        training.iteration()
        rates.append([group["lr"] for group in training.agent.optimiser.adam.param_groups])
    assert rates == [pytest.approx([5e-4 * left, 1e-3 * left]) for left in (1, 0.75, 0.5, 0.25)]
    constant = Training(Settings.of({**CARTPOLE, "lr": 1e-3, "anneal_lr": False}), 0)
    constant.iteration()
    constant.iteration()
    assert constant.agent.optimiser.adam.param_groups[1]["lr"] == 1e-3


@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine", "step", "one_cycle"])
def test_rates_go_by_the_schedule(schedule: str, algorithm: str) -> None:
    chosen = {"lr": 1e-3, "value_lr": 5e-4, "algorithm": algorithm, "schedule": schedule, "warmup": 0.5}
    training = Training(Settings.of({**CARTPOLE, **chosen}), 0)
    groups = training.agent.optimiser.adam.param_groups
    peaks = [5e-4, 1e-3][: len(groups)]  # the step of TRPO's policy has no rate
    assert len(groups) == (2 if algorithm == "ppo" else 1)
    for iteration in range(4):
        training.iteration()
        factor = rate_factor("constant" if schedule == "linear" else schedule, iteration, 4, 0.5)
        factor *= (1 - iteration / 4) if schedule == "linear" else 1
        assert [group["lr"] for group in groups] == pytest.approx([peak * factor for peak in peaks])


def test_anneal_lr_is_linear_or_constant_in_one_word() -> None:
    for config, schedule in (
        ({}, "linear"), ({"anneal_lr": False}, "constant"), ({"schedule": "constant"}, "constant"),
        ({"variant": "ppo-m"}, "constant"), ({"variant": "ppo-m", "anneal_lr": True}, "linear"),
        ({"variant": "ppo-m", "anneal_lr": True, "schedule": "cosine"}, "cosine"),
        ({"anneal_lr": False, "schedule": "constant"}, "constant"),
    ):  # fmt: skip
        settings = Settings.of(config)
        assert settings.schedule == schedule
        assert Settings.of(settings.to_dict()) == settings
    for config in ({"anneal_lr": False, "schedule": "cosine"}, {"variant": "ppo-m", "schedule": "linear"}):
        with pytest.raises(ValueError, match=f"schedule is '{config['schedule']}' and anneal_lr false, which keeps"):
            Settings.of(config)


@pytest.mark.parametrize(
    "change",
    [
        {"value_clip": 0.0}, {"scale_rewards": False}, {"init": "xavier"}, {"anneal_lr": False}, {"clip_rewards": 0.5},
        {"normalise_observations": False}, {"clip_observations": 0.5}, {"activation": "relu"}, {"max_grad_norm": 1e-3},
        {"entropy": 0.1}, {"normalise_advantages": False}, {"clip": 1e-3}, {"gae_lambda": 0.5}, {"baseline": "zero"},
        {"precision": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_switch_reaches_the_update(change: dict[str, Any]) -> None:
    base = {**CARTPOLE, "eval_every": 100, "eval_episodes": 1, "value_lr": 0.1}  # fast enough to be clipped
    one, other = make(base), make({**base, **change})
    steps(one, 2)
    steps(other, 2)
    assert not torch.equal(weights(one), weights(other))
    assert bool(torch.isfinite(weights(other)).all())


def test_entropy_has_the_right_sign_and_the_released_one_on_request() -> None:
    settings = Settings(entropy=0.1)
    discrete, continuous = Categorical(torch.tensor([[0.0, 1.0]])), Gaussian(torch.zeros(1, 2), torch.zeros(2))
    assert entropy_bonus(discrete, settings) == discrete.entropy().mean() > 0
    released = dataclasses.replace(settings, as_released=True)
    assert entropy_bonus(discrete, released) == -discrete.entropy().mean()
    assert entropy_bonus(continuous, released) == continuous.entropy().mean()
    # A large coefficient flattens the policy, and with the wrong sign does the opposite.
    long = {**CARTPOLE, "entropy": 3.0, "lr": 0.02, "iterations": 40, "max_grad_norm": 0}
    flat, sharp = make(long), make({**long, "as_released": True})
    assert steps(flat, 4)[-1]["entropy"] > 0.68 > 0.5 > steps(sharp, 4)[-1]["entropy"]


def test_advantage_of_the_zero_baseline_is_the_return() -> None:
    training = Training(Settings.of({**CARTPOLE, "baseline": "zero", "pairs": 400, "envs": 1}), 0)
    batch = training.collect()
    data = training.agent.data(batch)
    last = np.flatnonzero(batch.done[:, 0])[0]
    expected = sum(0.99**step * batch.rewards[step, 0] for step in range(last + 1))
    assert float(data.advantages[0]) == pytest.approx(expected, rel=1e-4)


# ------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("config", [CARTPOLE, PENDULUM, HOPPER], ids=lambda config: config["env_id"])
def test_resume_equals_uninterrupted(config: dict[str, Any], tmp_path: Path) -> None:
    whole = make(config)
    expected = steps(whole, 4)
    first = make(config)
    assert steps(first, 2) == expected[:2]
    first.save_checkpoint(tmp_path)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (another process has another global state)
    second = make(config, seed=77)
    second.load_checkpoint(tmp_path)
    assert steps(second, 2) == expected[2:]
    assert torch.equal(weights(whole), weights(second))
    assert expected[-1]["done"]
    assert "test_return" in expected[-1]
    assert not expected[-2]["done"]
    assert expected[0]["resume_exact"]


def test_resume_between_probes_reports_the_held_one(tmp_path: Path) -> None:
    config = {**CARTPOLE, "probe_every": 2, "probe_pairs": 64, "iterations": 6}
    whole = make(config)
    expected = steps(whole, 5)
    first = make(config)
    assert steps(first, 2) == expected[:2]
    assert steps(first, 1) == expected[2:3]  # a checkpoint between two probes
    first.save_checkpoint(tmp_path)
    second = make(config)
    second.load_checkpoint(tmp_path)
    assert steps(second, 2) == expected[3:]
    assert torch.equal(weights(whole), weights(second))
    cosines = [report.get("gradient_cosine") for report in expected]
    assert cosines[0] is None
    assert cosines[1] == cosines[2] != cosines[3] == cosines[4]
    third = make(config)  # and one just after a probe, which the next iteration reports again
    steps(third, 2)
    third.save_checkpoint(tmp_path)
    fourth = make(config)
    fourth.load_checkpoint(tmp_path)
    assert steps(fourth, 1) == expected[2:3]


def test_seed_decides_everything_and_global_generators_are_left_alone() -> None:
    before, numpy_before = torch.random.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    assert steps(make(CARTPOLE), 2) == steps(make(CARTPOLE), 2)
    assert steps(make(CARTPOLE), 2) != steps(make(CARTPOLE, seed=4), 2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert numpy_before == repr(np.random.get_state())  # noqa: NPY002


def test_reset_config_equals_a_fresh_start() -> None:
    used = make(PENDULUM)
    steps(used, 1)
    environments = used.training.environments
    assert used.reset_config({**PENDULUM, "delta": 0.02})
    assert used.training.environments is environments
    assert steps(used, 2) == steps(make({**PENDULUM, "delta": 0.02}), 2)
    assert used.reset_config(CARTPOLE)
    assert steps(used, 2) == steps(make(CARTPOLE), 2)
    used.cleanup()


def test_a_clone_takes_over_the_state_and_keeps_its_own_hyperparameters(tmp_path: Path) -> None:
    source = make({**CARTPOLE, "anneal_lr": False})
    steps(source, 2)
    source.save_checkpoint(tmp_path)
    own = {"lr": 1e-2, "clip": 0.05, "gae_lambda": 0.5, "entropy": 0.02, "value_lr": 3e-3}
    clone = make(CARTPOLE, seed=8)
    steps(clone, 1)
    assert clone.reset_config({**CARTPOLE, "anneal_lr": False, **own})
    clone.load_checkpoint(tmp_path)
    assert torch.equal(weights(source), weights(clone))
    assert clone.training.agent.optimiser.adam.state  # moments came along
    assert clone.training.agent.iteration == 2
    settings = clone.training.settings
    assert {name: getattr(settings, name) for name in own} == own
    theirs, mine = steps(source, 1)[0], steps(clone, 1)[0]
    assert mine["iteration"] == theirs["iteration"] == 3
    assert [group["lr"] for group in clone.training.agent.optimiser.adam.param_groups] == [3e-3, 1e-2]
    assert mine["step_norm"] > theirs["step_norm"]  # it has learnt with its own rate


def test_between_algorithms_the_weights_go_over_and_the_moments_do_not(tmp_path: Path) -> None:
    source = make(PENDULUM)
    steps(source, 1)
    source.save_checkpoint(tmp_path)
    clone = make({**PENDULUM, "algorithm": "ppo"})
    clone.load_checkpoint(tmp_path)
    assert torch.equal(weights(source), weights(clone))
    assert not clone.training.agent.optimiser.adam.state
    steps(clone, 1)


def test_another_number_of_environments_restarts_the_episodes_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make(CARTPOLE)
    steps(source, 1)
    source.save_checkpoint(tmp_path)
    clone = make({**CARTPOLE, "envs": 4})
    with caplog.at_level(logging.WARNING):
        clone.load_checkpoint(tmp_path)
    assert "all episodes start anew" in caplog.text
    assert "2 environments, and there are 4 now" in caplog.text
    assert clone.training.episodes_restarted
    assert torch.equal(weights(source), weights(clone))
    steps(clone, 1)


def test_a_checkpoint_tells_its_agent_alone(tmp_path: Path) -> None:
    source = make(HOPPER)
    steps(source, 1)
    source.save_checkpoint(tmp_path)
    agent = load_agent(tmp_path)
    assert agent.settings == source.training.settings
    assert agent.iteration == 1
    assert torch.equal(flat_parameters(agent.policy), flat_parameters(source.training.agent.policy))
    assert agent.scaler.scale == source.training.agent.scaler.scale


def test_evaluation_seeds_are_shared_by_trials_and_apart_from_those_of_the_report() -> None:
    one, other = Training(Settings.of(CARTPOLE), 1), Training(Settings.of(CARTPOLE), 2)
    other.agent.load_state(one.agent.state(), one.settings)
    judged = one.evaluate("evaluation", 5)
    assert judged == other.evaluate("evaluation", 5)
    assert judged != one.evaluate("report", 5)


# ------------------------------------------------------------------------------------------ messages


def test_a_checkpoint_of_another_environment_or_network_is_refused(tmp_path: Path) -> None:
    source = make(CARTPOLE)
    source.save_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="of the environment CartPole-v1 and this trial is set to Pendulum-v1"):
        make(PENDULUM).load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"networks of \[16\] tanh units and this trial is set to \[8\] tanh"):
        make({**CARTPOLE, "hidden": [8]}).load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint of a policy gradient trial"):
        make(CARTPOLE).load_checkpoint(tmp_path / "elsewhere")
    (tmp_path / "old").mkdir()
    torch.save({"format": 99}, tmp_path / "old" / STATE_FILE)
    with pytest.raises(ValueError, match="has format 99, and this version reads 1"):
        make(CARTPOLE).load_checkpoint(tmp_path / "old")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"learning_rate": 1}, "unknown hyperparameter 'learning_rate'.*did you mean 'lr'"),
        ({"gae_lamda": 1}, "did you mean 'gae_lambda'"),
        ({"algorithm": "a2c"}, "algorithm is one of ppo, trpo, got 'a2c'"),
        ({"variant": "ppo2"}, "variant is one of ppo, ppo-m, ppo-noclip, trpo, trpo\\+, got 'ppo2'"),
        ({"gamma": 1.5}, "gamma is between 0 and 1, got 1.5"),
        ({"pairs": 100, "envs": 3}, "pairs \\(100\\) must be a multiple of envs \\(3\\)"),
        ({"lr": "fast"}, "lr is of type float, got 'fast'"),
        ({"envs": 2.5}, "envs is of type int, got 2.5"),
        ({"anneal_lr": 1}, "anneal_lr is of type bool, got 1"),
        ({"schedule": "poly"}, "schedule is one of linear, constant, cosine, step, one_cycle, got 'poly'"),
        ({"warmup": 2.0}, "warmup is between 0 and 1, got 2.0"),
        ({"hidden": []}, "hidden is a list of layer widths"),
        ({"precision": "float8"}, "precision is one of"),
        ({"env_id": "CartPoole-v1"}, "did you mean CartPole-v1"),
    ],
)
def test_mistakes_are_told_before_training_starts(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make({**SMALL, **bad})


def test_variants_set_what_the_papers_say_and_a_config_goes_on_top() -> None:
    hopper = paper_settings("ppo", "Hopper-v5")
    assert (hopper.lr, hopper.value_lr, hopper.clip, hopper.pairs, hopper.epochs) == (4.5e-4, 2e-4, 0.2, 2048, 10)
    minimal = paper_settings("ppo-m", "Walker2d-v5")
    for name in ("value_clip", "scale_rewards", "clip_rewards", "clip_observations", "anneal_lr"):
        assert not getattr(minimal, name)
    assert minimal.init == "xavier"
    assert minimal.normalise_observations
    assert [paper_settings("trpo", f"{env}-v5").delta for env in ("Humanoid", "Walker2d", "Hopper")] == [
        0.07,
        0.04,
        0.13,
    ]
    plus = paper_settings("trpo+", "Humanoid-v5")
    assert (plus.algorithm, plus.delta, plus.delta_final, plus.value_clip, plus.scale_rewards) == (
        "trpo",
        0.1,
        0.05,
        0.2,
        True,
    )
    mixed = Settings.of({"variant": "trpo", "env_id": "Hopper-v4", "delta": 1, "hidden": [8, 8]})
    assert (mixed.algorithm, mixed.delta, mixed.damping, mixed.hidden) == ("trpo", 1.0, 0.1, (8, 8))
    assert isinstance(mixed.delta, float)
    assert Settings.of(mixed.to_dict()) == mixed


def test_learns_cartpole() -> None:
    config = {"env_id": "CartPole-v1", "iterations": 12, "pairs": 1024, "minibatches": 8, "lr": 2e-3,
              "anneal_lr": False,
              "value_lr": 2e-3, "eval_every": 12, "eval_episodes": 10}  # fmt: skip
    reports = steps(make(config), 12)
    assert reports[0]["train_return"] < 40
    assert reports[-1]["train_return"] > 100
    assert reports[-1]["test_return"] > 100
