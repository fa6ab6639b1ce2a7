"""The analyses: exact on a chain whose trajectories can be enumerated, and harmless to the trial that they look at."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tune_platform.trainable import TrialContext
from tune_platform.trainables.policy_gradient import (
    PolicyGradientTrainable,
    Settings,
    analyse,
    figures,
    gradient,
    landscape,
    values,
)
from tune_platform.trainables.policy_gradient.advantages import empirical_returns
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.environments import Environments
from tune_platform.trainables.policy_gradient.policies import flat_gradient, flat_parameters
from tune_platform.trainables.policy_gradient.rollout import Batch
from tune_platform.trainables.policy_gradient.sampling import Sampler, Snapshot
from tune_platform.trainables.policy_gradient.summary import claims_table
from tune_platform.trainables.policy_gradient.training import Training

SMALL = {"pairs": 128, "envs": 1, "minibatches": 4, "epochs": 2, "hidden": [16], "eval_episodes": 1, "test_episodes": 1}
LENGTH = 3


class Chain(gym.Env[Any, Any]):
    """Five states in a row; start in the middle, step left or right three times; the reward is where one stands."""

    observation_space = spaces.Box(0, 1, (5,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.place = self.time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.time = 2, 0
        return np.eye(5)[self.place], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = min(4, max(0, self.place + (1 if action else -1)))
        self.time += 1
        return np.eye(5)[self.place], float(self.place), self.time == LENGTH, False, {}


gym.register("pg-tests/Chain-v0", entry_point=Chain)  # type: ignore[arg-type]
PLAIN = {"normalise_observations": False, "clip_observations": 0, "scale_rewards": False, "clip_rewards": 0}


def chain_agent() -> Agent:
    settings = Settings.of(
        {**SMALL, **PLAIN, "env_id": "pg-tests/Chain-v0", "hidden": [4], "init": "xavier", "gamma": 0.9}
    )
    agent = Agent(settings, Environments("pg-tests/Chain-v0", {}, 1).sizes, 5)
    agent.settings = settings
    return agent


def enumerate_chain(agent: Agent, baseline: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the exact gradient per pair, and sigma^2 per pair, over all eight trajectories."""
    gamma, outcomes = agent.settings.gamma, []
    for actions in itertools.product([0, 1], repeat=LENGTH):
        place, places, rewards = 2, [], []
        for action in actions:
            places.append(place)
            place = min(4, max(0, place + (1 if action else -1)))
            rewards.append(float(place))
        states, taken = torch.eye(5)[places], torch.tensor(actions)
        logs = agent.policy(states).log_prob(taken)
        returns = [
            sum(gamma ** (later - step) * rewards[later] for later in range(step, LENGTH)) for step in range(LENGTH)
        ]
        weights = torch.tensor([returns[step] - baseline[step, places[step]] for step in range(LENGTH)])
        score = flat_gradient((logs * weights).sum() / LENGTH, agent.policy).double().numpy()
        outcomes.append((float(logs.detach().sum().exp()), score))
    assert sum(share for share, _ in outcomes) == pytest.approx(1, abs=1e-5)
    mean = np.sum([share * score for share, score in outcomes], axis=0)
    variance = sum(share * float(((score - mean) ** 2).sum()) for share, score in outcomes)
    return mean, LENGTH * variance


def chain_estimates(agent: Agent, pairs: int, count: int) -> np.ndarray:
    """Estimates with plain returns as advantages, not standardised: those whose expectation is known."""
    batch = Sampler().streams("chain", Snapshot.of(agent), 3, 1, pairs * count)[0]
    found = []
    for start in range(0, pairs * count, pairs):  # whole episodes, so that these slices are independent
        part = batch.window(0, start, start + pairs)
        zeros = np.zeros_like(part.rewards)
        returns = gradient_returns(part, agent.settings.gamma) + zeros
        found.append(
            gradient.surrogate_gradient(
                agent,
                agent.tensor(part.flat_observations()),
                agent.tensor(part.flat_actions()),
                agent.tensor(returns[:, 0]),
            )
        )
    return np.stack(found)


def gradient_returns(batch: Batch, gamma: float) -> np.ndarray:
    return empirical_returns(batch.rewards, batch.terminated, batch.truncated, gamma, 0).values


def trained(env_id: str = "CartPole-v1", iterations: int = 2, **changes: Any) -> Training:
    training = Training(Settings.of({**SMALL, "env_id": env_id, "eval_every": 99, **changes}), 0)
    for _ in range(iterations):
        training.iteration()
    return training


def fingerprint(training: Training) -> str:
    """A hash of everything that the next iteration depends on."""
    agent, text = training.agent, hashlib.sha256()
    for tensor in (flat_parameters(agent.policy), flat_parameters(agent.value), agent.generator.get_state()):
        text.update(tensor.numpy().tobytes())
    for state in agent.optimiser.adam.state.values():
        for name in ("exp_avg", "exp_avg_sq", "step"):
            text.update(state[name].numpy().tobytes())
    rest = (agent.normaliser.stats.state(), agent.scaler.state(), training.draw.bit_generator.state, agent.iteration)
    text.update(repr(rest).encode())
    text.update(repr(training.environments.state()).encode())
    return text.hexdigest()


# ------------------------------------------------------------------------------------------ gradient


def test_surrogate_gradient_is_the_mean_of_scores_times_advantages() -> None:
    agent = chain_agent()
    generator = torch.Generator().manual_seed(0)
    observations, actions = (
        torch.eye(5)[torch.randint(5, (40,), generator=generator)],
        torch.randint(2, (40,), generator=generator),
    )
    advantages = torch.randn(40, generator=generator)
    found = gradient.surrogate_gradient(agent, observations, actions, advantages)
    expected = sum(
        advantage * flat_gradient(agent.policy(row[None]).log_prob(action[None])[0], agent.policy)
        for row, action, advantage in zip(observations, actions, advantages, strict=True)
    )
    assert isinstance(expected, torch.Tensor)
    assert found == pytest.approx((expected / 40).numpy(), abs=1e-5)


def test_estimates_agree_with_the_enumerated_gradient_and_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = chain_agent()
    exact, sigma2 = enumerate_chain(agent, np.zeros((LENGTH, 5)))
    estimates = chain_estimates(agent, pairs=30, count=200)
    error = estimates.std(axis=0, ddof=1) / math.sqrt(len(estimates))
    moving = error > 1e-9
    z = (estimates.mean(axis=0) - exact)[moving] / error[moving]
    assert np.abs(z).max() < 4.5  # the largest of some 40 standard normal numbers
    scale = sigma2 / float(exact @ exact)
    assert gradient.noise_scale(estimates, 30) == pytest.approx(scale, rel=0.3)
    true = float(gradient.cosines_to(estimates, exact).mean())
    assert true**2 == pytest.approx(gradient.pairwise_cosine(estimates), abs=0.1)
    larger = chain_estimates(agent, pairs=300, count=12)
    assert gradient.pairwise_cosine(larger) > gradient.pairwise_cosine(estimates)
    # At small N the part of the noise along g, which turns nothing, makes the cosine better than the formula.
    assert gradient.pairwise_cosine(larger) == pytest.approx(1 / (1 + scale / 300), abs=0.05)
    monkeypatch.setattr(gradient, "_CHUNK", 7)  # large batches are summed up in parts
    assert chain_estimates(agent, pairs=30, count=3) == pytest.approx(estimates[:3], abs=1e-6)


def test_a_baseline_of_the_state_changes_the_noise_and_not_the_expectation() -> None:
    agent = chain_agent()
    zero, noise = enumerate_chain(agent, np.zeros((LENGTH, 5)))
    baseline = np.array([[7.0] * 5, [4.5] * 5, [2.2] * 5])
    other, less = enumerate_chain(agent, baseline)
    assert other == pytest.approx(zero, abs=1e-5)
    assert less < noise / 5


def test_cosines_and_noise_scale_by_hand() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    assert gradient.pairwise_cosine(rows) == pytest.approx(1 / 3)
    assert gradient.cosines_to(rows, np.array([0.0, -1.0])).tolist() == [0, -1, 0]
    same = np.repeat(rows[:1], 4, axis=0)
    assert gradient.pairwise_cosine(same) == 1  # k identical seeds
    assert gradient.bootstrap_pairwise(same, 50, 0) == (1, 1)
    assert gradient.noise_scale(same, 10) == 0
    assert gradient.noise_scale(np.array([[1.0, 0], [-1, 0]]), 10) == math.inf
    # |g|^2 = 1 (the product), E|g_i|^2 = 1 + 4: sigma^2 / N = 4.
    assert gradient.noise_scale(np.array([[1.0, 2, 0], [1, 0, 2]]), 10) == 40


def test_bootstrap_covers_a_known_mean() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        low, high = gradient.bootstrap_mean(generator.normal(1, 1, size=20), 300, trial)
        hits += low <= 1 <= high
    assert 85 <= hits <= 99


def test_report_is_deterministic_and_has_the_number_of_trajectories() -> None:
    agent = trained().agent
    one = gradient.gradient_report(agent, Sampler(), 4, sizes=(50, 200), estimates=4, reference_pairs=400)
    assert one == gradient.gradient_report(agent, Sampler(), 4, sizes=(50, 200), estimates=4, reference_pairs=400)
    assert one != gradient.gradient_report(agent, Sampler(), 5, sizes=(50, 200), estimates=4, reference_pairs=400)
    assert [row.pairs for row in one.qualities] == [50, 200]
    assert one.qualities[1].trajectories > one.qualities[0].trajectories >= 1
    for row in one.qualities:
        assert -1 <= row.pairwise_low <= row.pairwise_high <= 1
        assert -1 <= row.true_low <= row.true <= row.true_high <= 1
    step = gradient.gradient_report(agent, Sampler(), 4, sizes=(100,), estimates=3, reference_pairs=400, kind="step")
    assert step.reference_pairs == 0
    assert math.isnan(step.qualities[0].true)
    with pytest.raises(ValueError, match="kind is one of gradient, step"):
        gradient.estimate(agent, trained().collect(), "hessian")


# ------------------------------------------------------------------------------------------ values


def test_relative_errors_by_hand() -> None:
    predicted, actual = np.array([1.0, 2.0, 5.0]), np.array([2.0, -1.0, 0.001])
    assert values.mean_relative_error(predicted, actual) == pytest.approx((0.5 + 3) / 2)  # the third is too near zero
    assert values.squared_over_target(predicted, actual) == pytest.approx((1 / 2 + 9) / 2)
    assert values.explained_variance(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])) == pytest.approx(0.75)
    assert values.explained_variance(predicted, predicted) == 1
    assert math.isnan(values.explained_variance(predicted, np.ones(3)))
    assert math.isnan(values.mean_relative_error(predicted, np.zeros(3)))
    assert 0.99 ** values.horizon_of(0.99) <= 0.01 < 0.99 ** (values.horizon_of(0.99) - 1)
    assert values.horizon_of(0) == 1


def test_true_returns_are_not_cut_at_the_time_limit() -> None:
    """Pendulum is always cut after 200 steps: with limits as terminal, nearly every return would be wrong."""
    agent = trained("Pendulum-v1", 1, gamma=0.95, scale_rewards=False, clip_rewards=0).agent
    found = values.runs(agent, Sampler(), "test", 0, 2, 450)
    for run in found:
        batch = run.batch
        assert batch.pairs == 450
        assert run.complete.all()
        assert np.flatnonzero(batch.truncated[:, 0]).tolist() == [199, 399]
        assert not batch.terminated.any()
        assert batch.times[:, 0].tolist() == [*range(200), *range(200), *range(50)]
        assert batch.after_index[:, 0].tolist() == [199, 399, 449]
        # What follows the last pair before the limit is part of its return, and the observation there is kept.
        short = empirical_returns(batch.rewards, batch.terminated, batch.truncated, 0.95, 0).values
        assert short[0, 0] == pytest.approx(run.returns[0, 0], rel=1e-3)
        assert short[199, 0] == pytest.approx(batch.rewards[199, 0])
        assert run.returns[199, 0] < short[199, 0] - 1  # rewards are negative: what was cut is missing
    # The same environment again, by hand.
    from tune_platform.trainables.policy_gradient.environments import make_env
    from tune_platform.trainables.runtime import stream_seed

    env = make_env("Pendulum-v1", {}, extra_steps=values.horizon_of(0.95))
    raw = env.reset(seed=stream_seed(0, "test", 0))[0]
    first = found[0].batch
    rewards = []
    for step in range(200 + values.horizon_of(0.95)):
        if step < 200:
            normalised = agent.normaliser(np.asarray(raw, dtype=np.float64)[None], learn=False)[0]
            assert normalised == pytest.approx(first.observations[step, 0], abs=1e-4)
            raw, reward, *_ = env.step(np.clip(first.actions[step, 0], -2, 2).astype(np.float32))
            rewards.append(float(reward))
    assert rewards == pytest.approx(first.rewards[:200, 0].tolist(), rel=1e-4)


def test_value_errors_are_taken_on_complete_returns() -> None:
    agent = trained(iterations=1).agent
    train, held_out = values.runs(agent, Sampler(), "test", 0, 2, 128)
    found = values._errors(agent, train, held_out)
    assert found.complete == 1
    assert found.returns_mre_held_out > 0
    assert found.gae_mre_held_out > 0
    sampled = values.many_runs(agent, Sampler(), 1, 9_000)
    assert values.true_value(agent, sampled, 0, epochs=1).pairs == 6_000  # one stream of three is held out


def test_a_network_is_fitted_to_returns_of_any_scale() -> None:
    agent = trained(iterations=0).agent
    observations = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    x = observations.astype(np.float64)
    returns = 500 + 80 * np.sin(x[:, 0]) + 40 * x[:, 1]
    network = values.fit_value(agent, observations, returns, 0, epochs=250)
    assert values.explained_variance(agent.values_of(observations, network), returns) > 0.9
    assert agent.values_of(observations, network).mean() == pytest.approx(500, abs=5)
    again = values.fit_value(agent, observations, returns, 0, epochs=250)
    assert torch.equal(flat_parameters(network), flat_parameters(again))


def test_baselines_and_their_order_on_cartpole() -> None:
    agent = trained(iterations=3, pairs=1024, minibatches=8, epochs=6, lr=1e-3, hidden=[32]).agent
    report = values.value_report(agent, Sampler(), 0, sizes=(400,), estimates=8, true_pairs=15_000, repetitions=1)
    cosines = {name: rows[0].pairwise for name, rows in report.reduction.items()}
    assert cosines["true"] > cosines["zero"]
    with pytest.raises(ValueError, match="baseline is one of value, true, zero"):
        values.baseline_advantages(agent, trained().collect(), "mean", None)
    with pytest.raises(ValueError, match="needs the network"):
        values.baseline_advantages(agent, trained().collect(), "true", None)


# ------------------------------------------------------------------------------------------ landscape


def test_surrogate_is_zero_at_the_start_and_follows_its_gradient() -> None:
    training = trained()
    agent, batch = training.agent, training.collect()
    surrogate = landscape.Surrogate(agent, [batch])
    start = flat_parameters(agent.policy)
    assert surrogate(start) == pytest.approx(0, abs=1e-6)
    slope = gradient.gradient_of(agent, [batch], [agent.estimate(batch)[1]])
    direction = torch.as_tensor(slope).float()
    step = 1e-3 / direction.norm()
    assert surrogate(start + step * direction) == pytest.approx(1e-3 * float(direction.norm()), rel=0.1)
    assert torch.equal(flat_parameters(agent.policy), start)


def test_plane_begins_at_the_policy_itself_and_one_step_along_is_the_algorithms() -> None:
    training = trained()
    agent, batch = training.agent, Sampler().streams("x", Snapshot.of(training.agent), 0, 1, 128)[0]
    report = landscape.landscape_report(
        agent, Sampler(), 3, along=(0, 1, 2), random=(0, 3), large_pairs=400, episodes=4, batch=batch
    )
    assert report.small.shape == report.large.shape == (3, 2)
    assert report.reward.shape == (3, 2, 4)
    assert abs(report.small[0, 0]) < 1e-6
    own = Sampler().returns("true reward", [Snapshot.of(agent)], 3, 4)[0]
    assert report.reward[0, 0].tolist() == own.tolist()
    start = flat_parameters(agent.policy)
    step = landscape.algorithm_step(agent, batch)
    assert report.step_norm == pytest.approx(float(step.norm()))
    agent.update(batch)
    torch.testing.assert_close(flat_parameters(agent.policy), start + step)
    assert float(landscape.random_direction(agent, 3).norm()) == pytest.approx(2, rel=1e-5)
    scalars = report.scalars
    assert scalars["reward_gain"] == pytest.approx(report.reward[1, 0].mean() - report.reward[0, 0].mean())
    assert scalars["overfit"] == pytest.approx(report.small[1, 0] / report.large[1, 0])
    again = landscape.LandscapeReport.of(json.loads(json.dumps(report.to_dict())))
    assert again.scalars == pytest.approx(scalars, nan_ok=True)
    known = landscape.landscape_report(
        agent, Sampler(), 3, along=(0, 1), episodes=4, large_pairs=400, start_returns=own, batch=batch
    )
    assert known.reward[0, 0].tolist() == own.tolist()
    with pytest.raises(ValueError, match="begins at theta_0 and has the step itself"):
        landscape.landscape_report(agent, Sampler(), 3, along=(0, 2))


# ------------------------------------------------------------------------------------------ harmless


def test_analyses_leave_the_trial_as_they_found_it() -> None:
    training = trained("Hopper-v5")
    before, torch_state = fingerprint(training), torch.random.get_rng_state()
    gradient.gradient_report(training.agent, Sampler(), 0, sizes=(50,), estimates=2, reference_pairs=100)
    gradient.gradient_report(training.agent, Sampler(), 0, sizes=(50,), estimates=2, kind="step")
    values.value_report(training.agent, Sampler(), 0, sizes=(50,), estimates=2, true_pairs=300, repetitions=1)
    landscape.landscape_report(training.agent, Sampler(), 0, along=(0, 1), large_pairs=100, episodes=2)
    assert fingerprint(training) == before
    assert torch.equal(torch_state, torch.random.get_rng_state())


def test_training_with_probes_and_without_is_the_same() -> None:
    def run(**changes: Any) -> tuple[PolicyGradientTrainable, list[dict[str, Any]]]:
        trainable = PolicyGradientTrainable(TrialContext(seed=1, resources={"cpu": 1}))
        trainable.setup({**SMALL, "env_id": "CartPole-v1", **changes})
        return trainable, [trainable.step() for _ in range(4)]

    (plain, without), (probed, reports) = run(), run(probe_every=2, probe_pairs=64)
    assert fingerprint(plain.training) == fingerprint(probed.training)
    assert "gradient_cosine" not in {**without[0], **reports[0]}
    assert -1 <= reports[1]["gradient_cosine"] <= 1
    assert reports[2]["gradient_cosine"] == reports[1]["gradient_cosine"] != reports[3]["gradient_cosine"]
    assert reports[3]["noise_scale"] > 0


def test_an_infinite_noise_scale_counts_in_the_sign_test() -> None:
    """A mean cannot take it in; that it is the larger one is known all the same."""

    def row(stage: int, seed: int, scale: float) -> dict[str, Any]:
        return {"stage": stage, "seed": seed, "gradient": {"qualities": [{"noise_scale": 1.0}, {"noise_scale": scale}]}}

    early = [row(2, seed, 100.0 + seed) for seed in range(4)]
    late = [row(9, 0, math.inf), row(9, 1, 250.0), row(9, 2, 90.0), row(9, 3, 400.0)]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in claims_table(early + late).splitlines()]
    found = {line[0]: line[1:] for line in lines}
    p = 2 * (1 + 4) / 16
    assert found["B at iteration 9 is larger than at 2 (sign test)"] == ["3 of 4", f"{p:.3f}", "4"]
    assert found["B at iteration 9 / B at 2, of those where it is finite"][-1] == "3"
    endless = [row(9, seed, math.inf) for seed in range(4)]
    assert "| 4 of 4 | 0.125 | 4 |" in re.sub(" +", " ", claims_table(early + endless))


# ------------------------------------------------------------------------------------------ command line


def save(training: Training, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    training.save(directory)
    return directory


QUICK = [
    "--pairs",
    "50",
    "100",
    "--estimates",
    "3",
    "--reference",
    "300",
    "--repetitions",
    "1",
    "--grid",
    "3",
    "--episodes",
    "2",
]


def test_command_line_reads_any_checkpoint_and_writes_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tune_platform.store.checkpoints import CheckpointStorage

    training = trained()
    ref = CheckpointStorage(str(tmp_path / "store")).save(7, 2, 0, lambda directory: training.save(directory))
    plain = save(training, tmp_path / "plain")
    out = tmp_path / "out"
    assert analyse.main([str(plain), *QUICK, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "PPO on CartPole-v1 after 2 iterations" in shown
    assert "Gradient quality" in shown
    assert "Value prediction" in shown
    assert "Landscape along the step" in shown
    results = json.loads((out / "analysis.json").read_text())
    assert [row["pairs"] for row in results["gradient"]["qualities"]] == [50, 100]
    for name in ("gradient", "values", "baselines", "landscape"):
        assert (out / f"{name}.png").stat().st_size > 5000
    assert analyse.main([ref.uri, *QUICK, "--out", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "analysis.json").read_text())
    assert again["gradient"] == results["gradient"]
    assert again["landscape"] == results["landscape"]


def test_command_line_refuses_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tune_platform.store.checkpoints import CheckpointStorage

    assert analyse.main([str(tmp_path / "nowhere")]) == 2
    assert "there is no directory" in capsys.readouterr().err
    assert analyse.main([str(tmp_path)]) == 2
    assert "no checkpoint of a policy gradient trial" in capsys.readouterr().err
    assert analyse.main([str(tmp_path), "--estimates", "1"]) == 2
    assert "one estimate cannot be compared" in capsys.readouterr().err
    ref = CheckpointStorage(str(tmp_path / "store")).save(
        0, 1, 0, lambda directory: trained(iterations=0).save(directory)
    )
    (Path(ref.uri) / "files" / "policy_gradient.pt").write_bytes(b"damaged")
    assert analyse.main([ref.uri]) == 2
    assert "policy_gradient.pt" in capsys.readouterr().err


def test_surfaces_are_drawn(tmp_path: Path) -> None:
    report = landscape.landscape_report(
        trained().agent, Sampler(), 0, along=(0, 1), random=(0, 1), large_pairs=200, episodes=2
    ).to_dict()
    figures.save(figures.surface_figure({"it 2": report}, "t"), tmp_path / "a.png")
    figures.save(figures.concentration_figure(report, (1, 2), "t"), tmp_path / "b.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("a.png", "b.png"))


@pytest.mark.slow
def test_sampling_on_ray_gives_the_same_numbers() -> None:
    import ray

    agent = trained().agent
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        told: list[tuple[str, int, int]] = []
        spread = Sampler(ray=True, progress=lambda *news: told.append(news))
        here, there = (
            gradient.gradient_report(agent, sampler, 0, sizes=(50,), estimates=12, reference_pairs=300)
            for sampler in (Sampler(), spread)
        )
        assert here == there
        assert told[-1][1] == told[-1][2] >= 1
        snapshots = [Snapshot.of(agent), Snapshot.of(trained(iterations=0).agent)]
        assert np.array_equal(spread.returns("r", snapshots, 0, 15), Sampler().returns("r", snapshots, 0, 15))
    finally:
        ray.shutdown()
