"""Policy gradients by a gang: the single process's step, shared statistics, exact resume, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import DONE, TrialContext
from tune_platform.trainables.policy_gradient.gang import Networks, PolicyGradientGangTrainable, Rollouts
from tune_platform.trainables.policy_gradient.normalise import RunningStats
from tune_platform.trainables.policy_gradient.policies import flat_parameters
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.policy_gradient.trainable import PolicyGradientTrainable
from tune_platform.trainables.policy_gradient.training import Training

SMALL = {
    "env_id": "CartPole-v1", "pairs": 64, "envs": 2, "minibatches": 4, "epochs": 2, "hidden": [8], "iterations": 4,
    "eval_episodes": 3, "test_episodes": 4,
}  # fmt: skip
#: Figures of the machine.
CLOCK = {
    "samples_per_s", "steps_per_s", "step_s", "compute_s", "communication_s", "waiting_s", "slowest_worker",
    "slowest_ratio",
}  # fmt: skip


def make(gang: Gang | None = None, **config: Any) -> PolicyGradientGangTrainable:
    trainable = PolicyGradientGangTrainable(TrialContext(seed=3, gang=gang or Gang("threads", 2)))
    trainable.setup({**SMALL, **config})
    return trainable


def report(trainable: PolicyGradientGangTrainable) -> dict[str, Any]:
    return {name: value for name, value in trainable.step().items() if name not in CLOCK}


def workers(trainable: PolicyGradientGangTrainable) -> list[Any]:
    """The workers of a gang of threads."""
    group: Any = trainable.group
    return [next(iter(group._sessions[worker].values())) for worker in group.workers]


@pytest.fixture(scope="module")
def processes() -> Iterator[Gang]:
    gang = Gang("processes", 2)
    yield gang
    gang.close()


def test_settings_are_read_once_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    trainable = make(Gang("threads", 1))
    trainable.step()
    read: list[Any] = []

    def of(kind: type[Settings], given: Any) -> Settings:
        read.append(given)
        return kind(**given)

    monkeypatch.setattr(Settings, "of", classmethod(of))
    trainable.step()
    assert not read
    trainable.config = {**SMALL, "lr": 0.5}
    assert trainable.settings.lr == trainable.settings.lr == 0.5
    assert len(read) == 1


@pytest.mark.parametrize("rates", [{}, {"schedule": "one_cycle", "warmup": 0.5}])
def test_a_gang_of_one_takes_the_steps_of_the_single_process(rates: dict[str, Any]) -> None:
    gang = make(Gang("threads", 1), strategy="all_reduce", lr=0.01, **rates)
    networks: Networks = workers(gang)[0].model
    single = Training(Settings.of({**SMALL, "lr": 0.01, **rates}), 3)
    single.agent.policy.load_state_dict(networks.policy.state_dict())
    single.agent.value.load_state_dict(networks.value.state_dict())
    for _ in range(3):
        theirs, ours = single.iteration(), report(gang)
        for name in ("train_return", "kl", "max_ratio", "clip_fraction", "entropy", "eval_return", "env_steps"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    for mine, their in ((networks.policy, single.agent.policy), (networks.value, single.agent.value)):
        torch.testing.assert_close(flat_parameters(mine), flat_parameters(their), rtol=1e-4, atol=1e-6)


def test_processes_under_ddp_train_as_threads_do(processes: Gang) -> None:
    threads, ddp = make(strategy="all_reduce"), make(processes, strategy="all_reduce")
    for _ in range(4):
        a, b = report(threads), report(ddp)
        assert b["bytes_sent"] > 0
        for name in ("train_return", "kl", "train_loss", "eval_return"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-6), name
    assert a[DONE]
    assert a["test_return"] == pytest.approx(b["test_return"])
    assert a["env_steps"] == 4 * 2 * 64


def test_workers_see_other_episodes_and_share_what_they_have_seen() -> None:
    trainable = make(strategy="all_reduce")
    trainable.step()
    first, second = workers(trainable)
    seen = [worker.position.data.environments.observations for worker in (first, second)]
    assert not np.array_equal(*seen)
    assert torch.equal(first.model.observations, second.model.observations)
    assert float(first.model.observations[0]) == 64  # a worker's share of all pairs
    before = float(first.model.rewards[0])
    trainable.step()
    assert float(first.model.rewards[0]) > before


@pytest.mark.parametrize(
    "config",
    [
        {"strategy": {"name": "local_sgd", "period": 3}},
        {"strategy": {"name": "diloco", "period": 4}},
        {"strategy": {"name": "slowmo", "period": 4}},
        {"strategy": {"name": "post_local_sgd", "period": 4}},
        {"strategy": {"name": "easgd", "period": 4}, "normalise_observations": False},
        {"strategy": {"name": "lsgd", "period": 4}, "normalise_observations": False},
        {"strategy": {"name": "downpour", "period": 4, "asynchronous": True}, "normalise_observations": False},
    ],
)
def test_other_strategies_train_too(config: dict[str, Any]) -> None:
    trainable = make(**config)
    reports = [report(trainable) for _ in range(4)]
    assert reports[-1][DONE]
    assert all(np.isfinite(one["train_loss"]) for one in reports)
    assert reports[-1]["test_return"] > 0


@pytest.mark.parametrize("strategy", ["all_reduce", {"name": "local_sgd", "period": 3}])
def test_resume_is_exact(strategy: Any, tmp_path: Path) -> None:
    through = make(strategy=strategy, eval_every=2)
    report(through)
    through.save_checkpoint(tmp_path)
    resumed = make(strategy=strategy, eval_every=2)
    resumed.load_checkpoint(tmp_path)
    for _ in range(3):
        assert report(through) == report(resumed)


def test_data_keep_their_place_within_a_pass() -> None:
    trainable = make(Gang("threads", 1))
    data: Rollouts = workers(trainable)[0].position.data
    drawn = iter(data)
    for _ in range(6):
        next(drawn)
    state = data.state_dict()
    other: Rollouts = workers(make(Gang("threads", 1)))[0].position.data
    other.load_state_dict(state)
    left, theirs = list(drawn), list(iter(other))
    assert len(left) == len(theirs) == len(data) - 6
    for one, two in zip(left, theirs, strict=True):
        for name in one:
            assert torch.equal(one[name], two[name])


def test_more_workers_go_on_from_a_checkpoint_of_fewer(tmp_path: Path) -> None:
    trainable = make(strategy="all_reduce")
    report(trainable)
    trainable.save_checkpoint(tmp_path)
    more = make(Gang("threads", 3), strategy="all_reduce")
    more.load_checkpoint(tmp_path)
    assert torch.equal(workers(more)[2].model.observations, workers(trainable)[0].model.observations)
    found = report(more)
    assert (found["iteration"], found["workers"]) == (2, 3)


def test_evaluation_may_be_shared(processes: Gang) -> None:
    alone, shared = make(strategy="all_reduce"), make(strategy="all_reduce", evaluation="sharded")
    assert report(alone)["eval_return"] == pytest.approx(report(shared)["eval_return"])


def test_sums_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(3, 2, (50, 4))
    parts, whole = (RunningStats(4), RunningStats(4)), RunningStats(4)
    for stats, some in zip((*parts, whole), (rows[:20], rows[20:], rows), strict=True):
        stats.update(some)
    merged = RunningStats(4)
    merged.load_sums(parts[0].sums() + parts[1].sums())
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, whole.mean)
    np.testing.assert_allclose(merged.std, whole.std)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"algorithm": "trpo"}, "algorithm 'trpo': its step is a search over the whole batch"),
        ({"strategy": "codistillation"}, "'codistillation' compares what two models return"),
        ({"strategy": "fully_sharded"}, "'fully_sharded' divides networks that do not fit one GPU"),
        ({"strategy": "easgd"}, "'easgd' exchanges parameters alone.*set normalise_observations: false"),
        ({"minibatchs": 4}, "unknown hyperparameter 'minibatchs'.*minibatches"),
        ({"probe_every": 5}, "probe_every: not for this trainable, a probe takes the agent of one process"),
        ({"updates": 5}, "updates: not for this trainable, a training has as many iterations"),
        ({"evaluation": "shared"}, "evaluation: 'first' or 'sharded', got 'shared'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(config: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        make(**config)


def test_the_single_process_names_it() -> None:
    named = f"{PolicyGradientGangTrainable.__module__}:{PolicyGradientGangTrainable.__name__}"
    assert named in PolicyGradientTrainable.one_process


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("workers", [1, 2])
def test_it_trains_on_gpus(workers: int) -> None:
    if workers > torch.cuda.device_count():
        pytest.skip("a GPU for each worker")
    gang = Gang("processes", workers, {"cpu": 1, "gpu": 1})
    try:
        trainable = make(gang, strategy="all_reduce", evaluation="sharded")
        told = [report(trainable) for _ in range(4)]
        assert told[-1][DONE]
        assert all(np.isfinite(each["train_loss"]) for each in told)
        assert told[-1]["test_return"] > 0
    finally:
        gang.close()
