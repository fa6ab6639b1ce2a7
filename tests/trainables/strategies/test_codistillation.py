from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from benchmarks.studies.codistillation import run
from tests.trainables.strategies.toys import (
    Toy,
    check_resume,
    count_parameters,
    digest,
    make,
    models,
    reports,
    vectors,
    worker_of,
)
from tune_platform.distributed import ShardedBatches, Strategy
from tune_platform.errors import SpecError
from tune_platform.protocol.seeds import derive
from tune_platform.trainables.strategies import STRATEGIES
from tune_platform.trainables.strategies.codistillation import Codistillation
from tune_platform.trainables.strategies.codistillation_schedule import Schedule
from tune_platform.trainables.strategies.peer_copies import pack


class Apart(Strategy):
    """No exchange; each worker begins as the codistilled model of its number."""

    name = "apart"

    def seed_purpose(self, rank: int) -> str:
        return f"model-{rank}" if rank else "model"


class Same(Codistillation):
    """All models begin alike, which they must not."""

    name = "same"

    def seed_purpose(self, rank: int) -> str:
        return "model"


class Swapped(Codistillation):
    """Model i begins as model n - 1 - i."""

    name = "swapped"

    def seed_purpose(self, rank: int) -> str:
        return f"model-{self.models - 1 - rank}" if rank < self.models - 1 else "model"


class Pair(Toy):
    """A toy with strategies to compare with."""

    strategies: ClassVar[Mapping[str, type[Strategy]]] = {
        **STRATEGIES, "apart": Apart, "same": Same, "swapped": Swapped,
    }  # fmt: skip

    def build_scheduler(self, config: Mapping[str, Any], optimizer: Any, *total: int) -> Any:
        if "drops" not in config:
            return None
        steps = [round(drop * config["updates"]) for drop in config["drops"]]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, steps)


def config(name: str = "codistillation", /, *, updates: int = 12, every: int = 4, **options: Any) -> dict[str, Any]:
    names = ("norm", "dropout", "events", "drops", "double", "batch_size", "lr", "weight_decay", "momentum")
    own = {key: options.pop(key) for key in names if key in options}
    return {"strategy": {"name": name, **options}, "updates": updates, "report_every": every, "momentum": 0.9, **own}


def pair(workers: int = 2, name: str = "codistillation", /, **options: Any) -> Any:
    return make(config(name, **options), workers, toy=Pair)


def strategy_of(trainable: Any, rank: int) -> Codistillation:
    found: Codistillation = worker_of(trainable, rank).strategy
    return found


def watch(
    monkeypatch: pytest.MonkeyPatch, method: str, look: Callable[[Codistillation], None], *, ahead: bool = False
) -> None:
    """Call `look` after, or ahead of, a method of every codistilling worker."""
    watched = getattr(Codistillation, method)

    def both(self: Codistillation, *args: Any) -> Any:
        if ahead:
            look(self)
        found = watched(self, *args)
        if not ahead:
            look(self)
        return found

    monkeypatch.setattr(Codistillation, method, both)


def train(trainable: Any, count: int = 3) -> Any:
    reports(trainable, count)
    return trainable


# the method


@pytest.mark.parametrize("exchange", ["checkpoints", "predictions"])
def test_without_the_term_each_model_is_on_its_own(exchange: str) -> None:
    options: dict[str, Any] = {"norm": True, "dropout": 0.3}
    data = "common" if exchange == "predictions" else "partitioned"
    codistilled = pair(2, alpha=0, exchange=exchange, data=data, **options)
    report = reports(codistilled, 3)[-1]
    assert report["bytes_sent"] == 0
    if exchange == "checkpoints":  # the same data as without a strategy
        apart = train(pair(2, "apart", **options))
        assert [digest(model) for model in models(codistilled)] == [digest(model) for model in models(apart)]
    assert len({digest(model) for model in models(codistilled)}) == 2


def test_models_begin_apart_and_a_groups_workers_alike() -> None:
    rows = vectors(pair(4))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[2], rows[3])
    assert not torch.equal(rows[0], rows[2])


def test_groups_stay_equal_in_themselves() -> None:
    trainable = pair(4, period=3)
    for _ in range(3):
        trainable.step()
        rows = vectors(trainable)
        assert torch.equal(rows[0], rows[1])
        assert torch.equal(rows[2], rows[3])


@pytest.mark.parametrize(("stagger", "offsets"), [(False, [0, 0]), (True, [0, 2])])
def test_copies_are_what_the_peer_was_at_the_last_exchange(
    monkeypatch: pytest.MonkeyPatch, stagger: bool, offsets: list[int]
) -> None:
    was: dict[tuple[int, int], Tensor] = {}  # (model, step) -> its state before that step
    ages = set()

    def look(strategy: Codistillation) -> None:
        step, model = strategy.worker.updates, strategy._at.seat.model
        was[model, step] = pack(strategy.worker.model)

    def compare(strategy: Codistillation) -> None:
        step, model = strategy.worker.updates, strategy._at.seat.model
        peer = 1 - model
        refreshed = max(s for s in range(step + 1) if s == 0 or s % 5 == offsets[peer])
        assert torch.equal(pack(strategy.copies[peer]), was[peer, refreshed])
        assert strategy.published[peer] == refreshed
        assert all(parameter.grad is None for parameter in strategy.copies[peer].parameters())
        ages.add(step - refreshed)

    watch(monkeypatch, "before_step", look, ahead=True)
    watch(monkeypatch, "after_backward", compare)
    trainable = pair(2, period=5, stagger=stagger, norm=True, updates=20, every=10)
    trained = {id(p) for group in worker_of(trainable, 0).optimizer.param_groups for p in group["params"]}
    train(trainable, 2)
    assert ages == {0, 1, 2, 3, 4}
    assert trained == {id(p) for p in models(trainable)[0].parameters()}


def test_own_model_alone_is_trained_and_keeps_its_generator_and_buffers() -> None:
    """A peer in eval mode draws nothing and moves no statistics: only the gradient differs from a run without."""
    states = []
    for alpha in (0.0, 1.0):
        trainable = train(pair(2, alpha=alpha, norm=True, dropout=0.5, lr=0.0, period=1))
        buffers = [torch.cat([b.double().reshape(-1) for b in model.buffers()]) for model in models(trainable)]
        states.append([worker_of(trainable, rank)._state[0] for rank in (0, 1)] + buffers)
    for without, having in zip(*states, strict=True):
        assert torch.equal(without, having)


@pytest.mark.parametrize("distance", ["kl_fwd", "kl_rev", "mse"])
def test_equal_models_on_equal_batches_teach_each_other_nothing(distance: str) -> None:
    same = pair(2, "same", exchange="predictions", distance=distance, double=True)
    report = reports(same, 3)[-1]
    alone = train(pair(2, "same", exchange="predictions", alpha=0.0, double=True))
    assert report["distillation_loss"] == 0
    assert report["logit_distance"] == 0
    assert torch.equal(vectors(same)[0], vectors(same)[1])
    if distance == "mse":
        assert torch.equal(vectors(same), vectors(alone))
    else:  # sum_c q_c is one up to rounding
        torch.testing.assert_close(vectors(same), vectors(alone), rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", [False, True])
def test_checkpoints_of_every_step_are_the_predictions_of_that_step(norm: bool) -> None:
    options: dict[str, Any] = {"norm": norm, "data": "common", "peer_norm": "batch" if norm else "running"}
    checkpoints = train(pair(2, exchange="checkpoints", period=1, **options))
    predictions = train(pair(2, exchange="predictions", **options))
    torch.testing.assert_close(vectors(checkpoints), vectors(predictions), rtol=1e-6, atol=1e-7)
    other = train(pair(2, exchange="checkpoints", period=4, **options))
    assert not torch.allclose(vectors(other), vectors(predictions), rtol=1e-4)


def test_numbers_of_the_models_do_not_matter() -> None:
    options: dict[str, Any] = {
        "models": 3,
        "data": "common",
        "period": 3,
        "stagger": False,
        "distance": "mse",
        "double": True,
    }
    found = [vectors(train(pair(3, name, **options))) for name in ("codistillation", "swapped")]
    torch.testing.assert_close(found[0], found[1].flip(0), rtol=1e-12, atol=1e-13)
    assert not torch.allclose(found[0], found[1], rtol=1e-3)


def test_a_group_of_workers_is_one_worker_with_a_larger_batch() -> None:
    options: dict[str, Any] = {"data": "common", "period": 3, "double": True}
    small = vectors(train(pair(4, batch_size=4, **options)))
    large = vectors(train(pair(2, batch_size=8, **options)))
    torch.testing.assert_close(small[::2], large, rtol=1e-6, atol=1e-9)


def test_the_weight_is_shared_by_the_peers() -> None:
    """With n models in which all peers agree, the term is that of one peer."""
    found = []
    for count in (2, 4):
        trainable = pair(count, models=count, period=100, exchange="checkpoints", data="common", double=True)
        for rank in range(1, count):  # all peers of model 0 begin as model 1
            worker_of(trainable, rank).model.load_state_dict(models(trainable)[1].state_dict())
        reports(trainable, 3)
        found.append(vectors(trainable)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_the_term_draws_the_models_together() -> None:
    distances = [reports(pair(2, alpha=alpha, updates=60, every=60, period=1), 1)[-1] for alpha in (1e-9, 3.0)]
    assert distances[1]["distillation_loss"] < distances[0]["distillation_loss"]
    assert distances[1]["logit_distance"] < distances[0]["logit_distance"]


def by_hand(start: list[nn.Module], data: list[ShardedBatches], steps: int, period: int, alpha: float) -> list[Tensor]:
    """Return the parameters after algorithm 1 as it is printed, with the squared distance of logits."""
    own = copy.deepcopy(start)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in own]
    batches = [itertools.chain.from_iterable(itertools.repeat(each)) for each in data]
    for step in range(steps):
        if step % period == 0:
            old = [copy.deepcopy(model) for model in own]
        for model, optimizer in enumerate(optimizers):
            x, y = next(batches[model])
            logits = own[model](x)
            others = [old[peer](x).detach() for peer in range(len(own)) if peer != model]
            extra = sum(((logits - other) ** 2).mean() for other in others) / len(others)
            optimizer.zero_grad()
            (nn.functional.cross_entropy(logits, y) + alpha * extra).backward()
            optimizer.step()
    return [nn.utils.parameters_to_vector(model.parameters()).detach() for model in own]


@pytest.mark.parametrize("count", [2, 3])
def test_it_is_the_algorithm_as_printed(count: int) -> None:
    options: dict[str, Any] = {"distance": "mse", "period": 3, "stagger": False, "alpha": 0.7, "double": True}
    trainable = pair(count, models=count, updates=8, every=8, **options)
    start = [worker_of(trainable, rank).model for rank in range(count)]
    data = [worker_of(trainable, rank).position.data for rank in range(count)]
    for model in start:
        model._forward_hooks.clear()  # a copy would take the worker along
    begin = copy.deepcopy(start)
    for rank in range(count):
        worker = worker_of(trainable, rank)
        worker.model.register_forward_hook(worker._output)
    reports(trainable, 1)
    torch.testing.assert_close(vectors(trainable), torch.stack(by_hand(begin, data, 8, 3, 0.7)), rtol=1e-12, atol=1e-13)


# schedules


def test_burn_in_ramp_and_shares_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, tuple[float, list[int]]] = {}

    def look(strategy: Codistillation) -> None:
        if strategy._at.rank == 0:
            step = strategy.worker.updates
            seen[step] = strategy.schedule.alpha(step), list(strategy.published)

    watch(monkeypatch, "before_step", look)
    train(pair(2, updates=20, every=20, burn_in=0.2, ramp=4, alpha=2.0, period=0.25, stagger=False), 1)
    assert [seen[step][0] for step in range(10)] == [0, 0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    published = [seen[step][1][1] for step in range(20)]
    assert published == [-1] * 4 + [4] * 5 + [9] * 5 + [14] * 5 + [19]


def test_weight_decay_follows_the_drops_of_the_rate_on_every_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, set[tuple[float, float]]] = {}

    def look(strategy: Codistillation) -> None:
        (group,) = strategy.worker.optimizer.param_groups
        rate = (round(group["lr"], 8), round(group["weight_decay"], 8))
        seen.setdefault(strategy.worker.updates, set()).add(rate)

    watch(monkeypatch, "after_backward", look)
    options: dict[str, Any] = {"weight_decay": 1e-2, "lr": 0.1, "drops": [0.5, 0.75], "weight_decay_factors": [0.1, 0]}
    trainable = pair(4, updates=8, every=4, **options)
    found = reports(trainable, 2)
    expected = [(0.1, 1e-2)] * 4 + [(0.01, 1e-3)] * 2 + [(0.001, 0.0)] * 2
    assert seen == {step: {pair} for step, pair in enumerate(expected)}
    assert [report["weight_decay_factor"] for report in found] == [1.0, 0.0]
    seen.clear()
    train(pair(2, updates=8, every=8, weight_decay=1e-2, weight_decay_factors=[0.5], weight_decay_milestones=[0.25]), 1)
    assert {step for step, rates in seen.items() if {decay for _, decay in rates} == {5e-3}} == set(range(2, 8))


# bytes


def test_bytes_are_counted_as_the_formula_has_them() -> None:
    trainable = pair(4, models=2, period=5, stagger=False, norm=True, updates=20, every=1)
    found = reports(trainable, 10)
    size = len(pack(models(trainable)[0]))
    parameters = count_parameters(trainable)
    inside = 2 * 8 * parameters * (2 - 1)
    buffers = 2 * 8 * 16  # BatchNorm's, averaged in each group at a report
    exchange = 2 * 1 * 2 * size
    between = [report["bytes_between_models"] for report in found]
    assert [report["bytes_per_step"] for report in found] == [
        inside + buffers + (exchange if step % 5 == 0 else 0) for step in range(10)
    ]
    assert between == [2 * size if step % 5 == 0 else 0 for step in range(10)]


def test_staggered_models_are_sent_by_turns() -> None:
    found = reports(pair(3, models=3, period=6, updates=20, every=1), 14)
    once = 2 * 4 * count_parameters(pair(2))
    sent = [report["bytes_per_step"] / once for report in found]
    assert sent == [3, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]  # model j at 2 j, 2 j + 6, ...


def test_only_the_first_exchange_where_the_period_is_longer_than_the_training() -> None:
    report = reports(pair(2, period=1000), 3)[-1]  # staggered, and yet both have a peer from the start
    assert report["bytes_sent"] == 2 * 4 * count_parameters(pair(2))
    assert report["peer_age"] == 12


@pytest.mark.parametrize(
    ("total", "momentum", "period"),
    [
        (800, 0.9, 50),  # 5 time constants of 1 / (1 - 0.9) = 10 steps, above 1 % of 800
        (10_000, 0.9, 100),  # 1 %
        (10_000, 0.99, 500),
        (800, 0.0, 8),
        (60, 0.9, 30),  # not more than half of the training
        (1, 0.9, 1),
    ],
)
def test_a_period_that_is_left_out_lasts_until_the_momentum_has_settled(
    total: int, momentum: float, period: int
) -> None:
    schedule = Schedule("codistillation", Codistillation.DEFAULTS)
    schedule.fit(total, (), momentum)
    assert schedule.period == period
    given = Schedule("codistillation", {**Codistillation.DEFAULTS, "period": 0.01})
    given.fit(total, (), momentum)
    assert given.period == max(1, total // 100)  # a share that is asked for is kept
    formula = Codistillation.bytes_per_step(100, 2, {"updates": total, "momentum": momentum})
    assert formula == 2 * 400 / period


def test_the_momentum_is_that_of_the_optimizer() -> None:
    worker = worker_of(pair(2, period=None, updates=1000), 0)
    assert worker.optimizer.param_groups[0]["momentum"] == 0.9
    assert worker.strategy.schedule.period == 50  # 1 % would be 10


@pytest.mark.parametrize(
    ("workers", "options", "more"),
    [
        (2, {"period": 4}, {}),
        (6, {"models": 3, "period": 6}, {}),
        (4, {"period": 0.25}, {"updates": 12}),
        (3, {"models": 3, "exchange": "predictions"}, {"logits": 16}),
        (4, {"exchange": "predictions"}, {"logits": 16}),
        (2, {"alpha": 0.0}, {}),
    ],
)
def test_bytes_per_step_of_the_class(workers: int, options: dict[str, Any], more: dict[str, Any]) -> None:
    trainable = pair(workers, every=12, stagger=False, **options)
    (report,) = reports(trainable, 1)
    checks = 12 * 0 if options.get("exchange") != "predictions" else _check_bytes(workers, options.get("models", 2))
    expected = Codistillation.bytes_per_step(count_parameters(trainable), workers, {**options, **more})
    assert report["bytes_per_step"] * 12 - checks == pytest.approx(expected * 12)


def _check_bytes(workers: int, count: int) -> int:
    """The hashes of the first batch, eight bytes each."""
    return workers // count * count * (count - 1) * 8


def test_resnet50_at_one_percent_of_training_costs_a_thousandth_of_all_reduce() -> None:
    """By the formula; benchmarks.studies.codistillation counts it on the tensors."""
    updates = 45 * 5004
    ours = Codistillation.bytes_per_step(25_557_032, 2, {"period": 0.01, "updates": updates})
    assert STRATEGIES["all_reduce"].bytes_per_step(25_557_032, 2, {}) / ours == pytest.approx(0.01 * updates, rel=1e-3)


# state


@pytest.mark.parametrize(
    ("workers", "options"),
    [
        (2, {"period": 3, "norm": True, "dropout": 0.3}),
        (4, {"period": 5, "stagger": True, "dropout": 0.3, "ensemble": True}),
        (2, {"exchange": "predictions", "norm": True, "dropout": 0.3}),
        (3, {"models": 3, "burn_in": 6, "ramp": 4, "distance": "mse", "alpha": 0.5}),
        (2, {"weight_decay": 0.1, "weight_decay_factors": [0.1, 0], "weight_decay_milestones": [0.3, 0.7]}),
    ],
)
def test_resume_is_exact(tmp_path: Path, workers: int, options: dict[str, Any]) -> None:
    check_resume(config(updates=16, **options), tmp_path, workers)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2), (4, 6)])
def test_another_number_of_workers_takes_the_models_over(tmp_path: Path, before: int, after: int) -> None:
    first = train(pair(before, period=3), 2)
    first.save_checkpoint(tmp_path)
    second = pair(after, period=3)
    second.load_checkpoint(tmp_path)
    old, new = vectors(first), vectors(second)
    half = after // 2
    assert torch.equal(new[:half], old[:1].expand(half, -1))
    assert torch.equal(new[half:], old[-1:].expand(half, -1))
    report = reports(second, 1)[0]
    assert report["updates"] == 12
    assert torch.equal(vectors(second)[0], vectors(second)[half - 1])


def test_fewer_workers_than_models_are_refused(tmp_path: Path) -> None:
    train(pair(3, models=3), 1).save_checkpoint(tmp_path)
    alone = make({**config(models=3), "workers": 3}, 3, toy=Pair)
    alone.group.workers.pop()
    with pytest.raises(SpecError, match="holds 3 models, this trial has 2 workers"):
        alone.load_checkpoint(tmp_path)


# evaluation


@pytest.mark.parametrize("chosen", [0, 1])
def test_one_named_model_is_evaluated(chosen: int) -> None:
    trainable = pair(4, evaluate_model=chosen)
    report = reports(trainable, 1)[0]
    assert report["evaluated"] == digest(models(trainable)[2 * chosen])
    assert report["evaluated_model"] == chosen


def test_draws_beside_the_training_leave_the_generator_of_its_device_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seeding torch seeds every device, so that an ensemble's evaluation could begin the training's draws anew."""
    worker = worker_of(pair(2), 0)
    device = {"state": torch.tensor([1])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device_name: device["state"])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device_name: device.update(state=state))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: device.update(state=torch.tensor([seed >> 1])))
    worker.place.device = "cuda:0"
    before = torch.get_rng_state()
    for purpose in ("evaluate", "copy", "data"):
        with worker.strategy._generator(purpose):
            assert int(device["state"]) != 1
            draws = torch.rand(3)
        assert torch.equal(draws, torch.rand(3, generator=torch.Generator().manual_seed(derive(0, purpose))))
        assert int(device["state"]) == 1
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("exchange", ["checkpoints", "predictions"])
def test_the_ensemble_is_a_metric_of_its_own(exchange: str) -> None:
    having, without = (pair(4, exchange=exchange, ensemble=flag) for flag in (True, False))
    with_ensemble, plain = reports(having, 3)[-1], reports(without, 3)[-1]
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(200, 20, generator=draws)
    mean = sum(models(having)[rank](x).softmax(-1) for rank in (0, 2))
    assert isinstance(mean, Tensor)
    expected = float((mean.argmax(1) == (x[:, 0] > 0)).double().mean())
    assert with_ensemble["ensemble_accuracy"] == pytest.approx(expected)
    assert with_ensemble["accuracy"] == plain["accuracy"]
    assert "ensemble_accuracy" not in plain


# what a user may get wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": 1}, "models is a number of at least 2"),
        ({"exchange": "files"}, "exchange is one of checkpoints, predictions"),
        ({"distance": "kl"}, "distance is one of kl_fwd, kl_rev, mse"),
        ({"exchange": "predictions", "data": "partitioned"}, "the same examples only"),
        ({"alpha": -1}, "alpha is a number of at least 0"),
        ({"period": 2.5}, "period is a whole number of steps, or a share"),
        ({"period": 0}, "period"),
        ({"evaluate_model": 2}, "evaluate_model is a number between 0 and 1"),
        ({"temperature": 0}, "temperature"),
        ({"weight_decay_factors": 0.1}, "weight_decay_factors is a list of numbers"),
        ({"weight_decay_factors": [2.0]}, "weight_decay_factors is a number between 0 and 1"),
        ({"stagger": 1}, "stagger is true or false"),
        ({"alfa": 1}, "did you mean 'alpha'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Codistillation(options)


def test_factors_without_milestones_and_workers_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(SpecError, match="each of the 1 weight_decay_factors needs a milestone"):
        pair(2, weight_decay_factors=[0.1])
    with pytest.raises(SpecError, match="3 workers cannot be divided among 2 models"):
        pair(3)


class OwnOrder(Pair):
    """Every worker has an order of its own, whatever it is asked for."""

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> Any:
        data: ShardedBatches = super().build_data(config, rank, world_size)
        data.seed = self.worker.place.worker
        return data


def test_predictions_on_different_batches_are_noticed() -> None:
    trainable = make(config(exchange="predictions"), 2, toy=OwnOrder)
    with pytest.raises(SpecError, match="the same batch, but theirs differ"):
        trainable.step()


class Wrapped(nn.Module):
    """Gives its logits in a dict, or something that is none."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(20, 2), kind

    def forward(self, x: Tensor) -> Any:
        logits = self.linear(x)
        return {"logits": logits} if self.kind == "dict" else (logits, None) if self.kind == "tuple" else logits[:, 0]


class Unusual(Pair):
    def build_model(self, config: Mapping[str, Any]) -> nn.Module:
        return Wrapped(config["kind"])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        output = model(batch[0])
        logits = output["logits"] if self.config["kind"] == "dict" else output[0]
        return nn.functional.cross_entropy(logits.reshape(-1, 2), batch[1][: logits.numel() // 2])

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        return {}


class Chosen(Unusual):
    def distilled(self, output: Any, batch: Any) -> Tensor:
        logits: Tensor = output[0]
        return logits[batch[1] > 0]  # as a mask of padding would


def test_logits_are_found_or_asked_for() -> None:
    for toy, kind in ((Unusual, "dict"), (Chosen, "tuple")):
        report = make({**config(), "kind": kind}, 2, toy=toy).step()
        assert report["distillation_loss"] > 0
    with pytest.raises(SpecError, match=r"Unusual a method distilled\(output, batch\)"):
        make({**config(), "kind": "tuple"}, 2, toy=Unusual).step()


@pytest.mark.slow
def test_the_default_does_not_ring_where_swapping_at_once_does() -> None:
    """Two models that swap checkpoints long enough apart overshoot each other, the more so with momentum."""

    def accuracy(**options: Any) -> float:
        method = {"strategy": {"name": "codistillation", **options}, "drops": ()}
        return float(run(method, 0, 300)["accuracy"])

    for period in (1, 3, 9, 18, 50):
        assert accuracy(period=period) > 91, period
    assert accuracy(period=9, stagger=False, distance="mse") < 90
