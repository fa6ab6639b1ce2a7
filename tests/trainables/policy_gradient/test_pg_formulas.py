"""Policy gradients: every formula against a case by hand, by brute force, or against torch's own distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions, nn

from tune_platform.trainables.policy_gradient.advantages import empirical_returns, gae, standardise
from tune_platform.trainables.policy_gradient.normalise import ObservationNormaliser, RewardScaler, RunningStats
from tune_platform.trainables.policy_gradient.policies import (
    Actor,
    Categorical,
    Gaussian,
    Policy,
    build_network,
    flat_gradient,
    flat_parameters,
    set_flat_parameters,
)
from tune_platform.trainables.policy_gradient.ppo import clipped_surrogate, standardised, value_loss
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.policy_gradient.trpo import bound, conjugate_gradient, fisher_product


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def flags(*values: bool) -> np.ndarray:
    return np.array(values)[:, None]


def policy_of(discrete: bool, size: int = 3, outputs: int = 2, seed: int = 0) -> Policy:
    network = build_network([size, 5, outputs], "tanh", "xavier", 1.0, torch.Generator().manual_seed(seed))
    return Policy(network, outputs=outputs, discrete=discrete, log_std=-0.3)


# ------------------------------------------------------------------------------------------ advantages


def test_gae_by_hand() -> None:
    # Two steps, the second truncated with a bootstrap of 4: errors are 1 + .5*2 - 1 = 1 and 2 + .5*4 - 2 = 2.
    found = gae(column(1, 2), column(1, 2), column(2, 4), flags(False, True), gamma=0.5, lam=0.5)
    assert found[:, 0].tolist() == [1 + 0.25 * 2, 2]


def test_gae_with_lambda_one_and_no_values_is_the_return() -> None:
    generator = np.random.default_rng(0)
    rewards = generator.normal(size=(30, 2))
    done = generator.random((30, 2)) < 0.2
    done[-1] = True
    zeros = np.zeros_like(rewards)
    found = gae(rewards, zeros, zeros, done, 0.9, 1.0)
    for env in range(2):
        for step in range(30):
            total, weight = 0.0, 1.0
            for later in range(step, 30):
                total += weight * rewards[later, env]
                weight *= 0.9
                if done[later, env]:
                    break
            assert found[step, env] == pytest.approx(total)
    assert empirical_returns(rewards, done, ~done & False, 0.9, 0).values == pytest.approx(found)


def test_gae_with_lambda_zero_is_the_temporal_difference() -> None:
    generator = np.random.default_rng(1)
    rewards, values, following = generator.normal(size=(3, 8, 2))
    done = generator.random((8, 2)) < 0.3
    assert gae(rewards, values, following, done, 0.9, 0.0) == pytest.approx(rewards + 0.9 * following - values)


def test_scaling_rewards_and_values_leaves_the_standardised_advantage() -> None:
    generator = np.random.default_rng(2)
    rewards, values, following = generator.normal(size=(3, 8, 2))
    done = np.zeros((8, 2), dtype=bool)
    one = gae(rewards, values, following, done, 0.9, 0.8)
    scaled = gae(7 * rewards, 7 * values, 7 * following, done, 0.9, 0.8)
    assert standardise(scaled) == pytest.approx(standardise(one), abs=1e-6)
    assert standardise(one + 3) == pytest.approx(standardise(one))  # a constant baseline


def test_returns_are_complete_where_the_episode_ends_or_the_horizon_is_seen() -> None:
    rewards = column(1, 1, 1, 1, 1)
    terminated, truncated = flags(False, True, False, False, False), flags(False, False, False, False, False)
    found = empirical_returns(rewards, terminated, truncated, gamma=0.5, horizon=2)
    assert found.values[:, 0].tolist() == [1.5, 1.0, 1.75, 1.5, 1.0]
    assert found.complete[:, 0].tolist() == [True, True, True, False, False]


def test_a_time_limit_completes_no_return_but_the_released_code_counts_it() -> None:
    rewards, nothing, truncated = column(1, 1, 1), flags(False, False, False), flags(False, False, True)
    assert not empirical_returns(rewards, nothing, truncated, 0.5, horizon=9).complete.any()
    assert empirical_returns(rewards, nothing, truncated, 0.5, horizon=0).complete.all()


# ------------------------------------------------------------------------------------------ distributions


def test_gaussian_is_torchs_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, other_mean, actions = torch.randn(3, 6, 2, generator=generator)
    log_std, other_std = torch.tensor([0.3, -0.7]), torch.tensor([-0.1, 0.2])
    mine, theirs = Gaussian(mean, log_std), distributions.Normal(mean, log_std.exp())
    other, reference = Gaussian(other_mean, other_std), distributions.Normal(other_mean, other_std.exp())
    torch.testing.assert_close(mine.log_prob(actions), theirs.log_prob(actions).sum(-1))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mine.entropy(), theirs.entropy().sum(-1))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mine.kl(other), distributions.kl_divergence(theirs, reference).sum(-1))


def test_categorical_is_torchs_and_its_entropy_is_positive() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, other_logits = torch.randn(2, 6, 4, generator=generator)
    actions = torch.tensor([0, 1, 2, 3, 0, 1])
    mine, theirs = Categorical(logits), distributions.Categorical(logits=logits)
    other, reference = Categorical(other_logits), distributions.Categorical(logits=other_logits)
    torch.testing.assert_close(mine.log_prob(actions), theirs.log_prob(actions))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mine.entropy(), theirs.entropy())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mine.kl(other), distributions.kl_divergence(theirs, reference))
    uniform = Categorical(torch.zeros(1, 4))
    assert uniform.entropy().item() == pytest.approx(math.log(4))  # the released code has -log 4


@pytest.mark.parametrize("discrete", [True, False])
def test_actor_samples_from_the_policy(discrete: bool) -> None:
    policy = policy_of(discrete)
    actor = Actor.of(policy, "tanh")
    draw = np.random.default_rng(0)
    observation = np.array([0.4, -1.0, 0.7], dtype=np.float32)
    rows = np.repeat(observation[None], 20_000, axis=0)
    actions = actor.act(rows, actor.noise(draw, len(rows)))
    distribution = policy(torch.tensor(observation[None]))
    if isinstance(distribution, Categorical):
        expected = distribution.logits.softmax(-1)[0].tolist()
        found = [float((actions == action).mean()) for action in range(2)]
        assert found == pytest.approx(expected, abs=4 * math.sqrt(0.25 / len(rows)))
        assert actor.act(rows[:1], None) == distribution.logits.argmax().item()
    else:
        std = distribution.log_std.exp().detach().numpy()
        assert actions.mean(axis=0) == pytest.approx(distribution.mean[0].tolist(), abs=float(4 * std.max() / 140))
        assert actions.std(axis=0) == pytest.approx(std, rel=0.03)
        assert actor.act(rows[:1], None)[0] == pytest.approx(distribution.mean[0].tolist(), abs=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_actor_is_a_copy_and_computes_what_torch_does(activation: str) -> None:
    network = build_network([3, 8, 8, 2], activation, "orthogonal", 0.5, torch.Generator().manual_seed(1))
    policy = Policy(network, outputs=2, discrete=False, log_std=0.0)
    actor = Actor.of(policy, activation)
    observations = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    before = actor.act(observations, None)
    assert before == pytest.approx(policy(torch.tensor(observations)).mean.detach().numpy(), abs=1e-6)
    set_flat_parameters(policy, torch.zeros_like(flat_parameters(policy)))
    assert np.array_equal(actor.act(observations, None), before)


def test_networks_are_initialised_as_asked() -> None:
    network = build_network([6, 5, 4, 2], "tanh", "orthogonal", 0.01, torch.Generator().manual_seed(0))
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, gain in zip(layers, (math.sqrt(2), math.sqrt(2), 0.01), strict=True):
        rows = layer.weight.detach()
        torch.testing.assert_close(rows @ rows.T, gain**2 * torch.eye(len(rows)), atol=1e-5, rtol=1e-4)
        assert not layer.bias.any()
    state = torch.random.get_rng_state()
    plain = build_network([6, 5], "tanh", "xavier", 0.01, torch.Generator().manual_seed(0))
    assert isinstance(plain[0], nn.Linear)
    limit = math.sqrt(6 / 11)
    assert 0.5 * limit < plain[0].weight.abs().max().item() <= limit
    assert torch.equal(state, torch.random.get_rng_state())


# ------------------------------------------------------------------------------------------ normalisation


def test_running_statistics_merge_to_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(3, 2, size=(101, 2))
    stats = RunningStats(2)
    assert stats.std.tolist() == [1, 1]
    for part in np.split(rows, [1, 2, 40]):
        stats.update(part)
    assert stats.mean == pytest.approx(rows.mean(axis=0))
    assert stats.std == pytest.approx(rows.std(axis=0))


def test_normaliser_stands_still_unless_it_learns_and_clips() -> None:
    normaliser = ObservationNormaliser(1, on=True, clip=1.5)
    normaliser(np.array([[0.0], [2.0]]), learn=True)
    assert normaliser(np.array([[1.0], [2.0], [9.0]]), learn=False)[:, 0].tolist() == pytest.approx([0, 1, 1.5])
    assert normaliser.stats.count == 2
    off = ObservationNormaliser(1, on=False, clip=0)
    assert off(np.array([[7.0]]), learn=True).tolist() == [[7.0]]


def test_reward_scaler_divides_by_the_std_of_discounted_returns_and_starts_anew_after_each_end() -> None:
    scaler = RewardScaler(1, 0.5, on=True, clip=0)
    seen, running = [], 0.0
    for reward, done in [(1.0, False), (2.0, True), (4.0, False), (-3.0, False)]:
        running = 0.5 * running + reward
        seen.append(running)
        expected = reward / (np.std(seen) if len(seen) > 1 else 1.0)
        assert scaler(np.array([reward]), np.array([done]), learn=True)[0] == pytest.approx(expected)
        running = 0.0 if done else running
    frozen = scaler.scale
    scaler(np.array([100.0]), np.array([False]), learn=False)
    assert scaler.scale == frozen
    assert RewardScaler(1, 0.5, on=False, clip=2)(np.array([-9.0]), np.array([False]), learn=True).tolist() == [-2]


# ------------------------------------------------------------------------------------------ losses


def test_clipped_surrogate_is_never_above_the_unclipped_one() -> None:
    generator = torch.Generator().manual_seed(0)
    ratio, advantages = torch.rand(500, generator=generator) * 3, torch.randn(500, generator=generator)
    clipped = clipped_surrogate(ratio, advantages, 0.2)
    assert bool((clipped <= ratio * advantages).all())
    assert clipped_surrogate(
        torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2
    ).tolist() == (pytest.approx([1.2, 0.5, -1.5, -0.8]))
    none = clipped_surrogate(ratio, advantages, 1e32)
    torch.testing.assert_close(none, ratio * advantages)


def test_value_loss_takes_the_larger_error() -> None:
    values, targets, old = torch.tensor([2.0, 0.0]), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.9])
    # Clipped to old +- .2: 1.2 and .7; errors (0, 1) and (.64, .09); the larger ones .64 and 1.
    assert value_loss(values, targets, old, 0.2).item() == pytest.approx((0.64 + 1) / 2)
    assert value_loss(values, targets, old, 0).item() == pytest.approx(0.5)


def test_standardised_advantages() -> None:
    found = standardised(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert found.mean().item() == pytest.approx(0, abs=1e-6)
    assert found.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert standardised(torch.tensor([5.0])).tolist() == [5.0]


# ------------------------------------------------------------------------------------------ trust region


def test_conjugate_gradient_solves_a_random_system() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.5 * torch.eye(12, dtype=torch.float64)
    target = torch.randn(12, generator=generator, dtype=torch.float64)
    found = conjugate_gradient(lambda vector: matrix @ vector, target, 40)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-5, atol=1e-7)
    assert not conjugate_gradient(lambda vector: matrix @ vector, torch.zeros(12, dtype=torch.float64), 5).any()


@pytest.mark.parametrize("discrete", [True, False])
def test_fisher_product_is_the_covariance_of_scores(discrete: bool) -> None:
    """F = E[grad log pi grad log pi^T], exact over both actions, and by the closed form for the normal."""
    policy = policy_of(discrete).double()
    observations = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    size = len(flat_parameters(policy))
    fisher = torch.zeros(size, size, dtype=torch.float64)
    for row in observations[:, None]:
        distribution = policy(row)
        if isinstance(distribution, Categorical):
            for action, share in enumerate(distribution.logits.softmax(-1)[0].tolist()):
                score = flat_gradient(policy(row).log_prob(torch.tensor([action]))[0], policy)
                fisher += share * torch.outer(score, score) / len(observations)
        else:
            precision = torch.exp(-2 * distribution.log_std.detach())
            for action in range(2):
                slope = flat_gradient(policy(row).mean[0, action], policy)
                fisher += precision[action] * torch.outer(slope, slope) / len(observations)
    if not discrete:
        fisher[:2, :2] += 2 * torch.eye(2, dtype=torch.float64)  # by log_std, the first parameters
    product = fisher_product(policy, observations, damping=0.1)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    torch.testing.assert_close(product(vector), fisher @ vector + 0.1 * vector, rtol=1e-6, atol=1e-9)


def test_bound_goes_from_the_first_to_the_last() -> None:
    fixed, moving = Settings(delta=0.1), Settings(delta=0.1, delta_final=0.05)
    assert [bound(fixed, left) for left in (1, 0.5, 0)] == [0.1, 0.1, 0.1]
    assert [bound(moving, left) for left in (1, 0.5, 0)] == pytest.approx([0.1, 0.075, 0.05])


def test_log_probs_and_divergences_have_right_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    log_std = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
    actions = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    old = Gaussian(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda m, s: Gaussian(m, s).log_prob(actions), (mean, log_std))
    assert torch.autograd.gradcheck(lambda m, s: old.kl(Gaussian(m, s)), (mean, log_std))
    logits = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    picked = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda x: Categorical(x).log_prob(picked), (logits,))
    assert torch.autograd.gradcheck(lambda x: Categorical(x).entropy(), (logits,))
