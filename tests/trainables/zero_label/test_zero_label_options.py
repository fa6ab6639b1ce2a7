"""Schedules of the rounds, and batches in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import TrialContext
from tune_platform.trainables.schedules import rate_factor
from tune_platform.trainables.zero_label.gang import ZeroLabelGangTrainable
from tune_platform.trainables.zero_label.optimizing import factor, poly, train_mode
from tune_platform.trainables.zero_label.scenes import digit_scenes
from tune_platform.trainables.zero_label.self_training import SelfTraining
from tune_platform.trainables.zero_label.splits import VOID, load_split
from tune_platform.trainables.zero_label.trainable import build_model, complete

SMALL: dict[str, Any] = {
    "train_scenes": 24, "width": 8, "base_steps": 6, "round_steps": 4, "batch_size": 6, "rounds": 1, "views": "shift",
    "class_weights": "agreement",
}  # fmt: skip


def make(**changes: Any) -> SelfTraining:
    config = complete({**SMALL, **changes})
    task = load_split("digits_248").task("tune")
    scenes = digit_scenes(task, "train", 24)
    return SelfTraining(config, task, scenes, build_model(config, task, 1, "cpu", 3), 3)


def gang(workers: int = 1, **changes: Any) -> Any:
    trainable = ZeroLabelGangTrainable(TrialContext(seed=3, gang=Gang("threads", workers)))
    trainable.setup({**SMALL, **changes})
    return trainable


def test_the_default_is_the_papers_step_bit_for_bit() -> None:
    """Two rounds by hand: the rate is poly's, and the loss that of the whole batch."""
    ours, by_hand = make(), make()
    for _ in range(2):
        ours.round()
        present = by_hand._begun()
        train_mode(by_hand.model, present.frozen)
        for step in range(present.steps):
            for group, rate in zip(present.optimizer.param_groups, present.rates, strict=True):
                group["lr"] = rate * poly(step, present.steps)
            indices = torch.randint(len(by_hand.train), (by_hand.batch_size,), generator=by_hand.draws)
            present.optimizer.zero_grad()
            by_hand.loss(by_hand.model, indices, present.teacher, present.stored).backward()  # type: ignore[no-untyped-call]
            present.optimizer.step()
        by_hand.model.eval()
        by_hand.rounds_done += 1
    for one, other in zip(ours.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("schedule", ["poly", "constant", "cosine", "step", "one_cycle"])
@pytest.mark.parametrize("warmup", [None, 0.0, 0.5])
def test_each_round_has_its_schedule(schedule: str, warmup: float | None) -> None:
    def expected(step: int, steps: int) -> float:
        if schedule == "poly":
            return poly(step, steps, warmup=0.05 if warmup is None else warmup)
        return rate_factor(schedule, step, steps, warmup or 0.0)

    training = make(schedule=schedule, warmup=warmup, method="longer", optimizer="sgd")
    for peak, steps in ((3e-3, 6), (1e-3, 4)):
        rates = []
        for _ in range(steps):
            present = training._present or training._begun()
            training._present = present
            training.part(1)
            rates.append(present.optimizer.param_groups[0]["lr"])
        assert rates == [peak * expected(step, steps) for step in range(steps)]


def test_the_gang_has_the_same_schedule() -> None:
    trainable, config = gang(schedule="one_cycle", warmup=0.5), complete({"schedule": "one_cycle", "warmup": 0.5})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = trainable.build_scheduler(trainable.config, optimizer, 10)
    for step in range(10):
        at = (3e-3, step, 6) if step < 6 else (1e-3, step - 6, 4)
        assert optimizer.param_groups[0]["lr"] == at[0] * factor(config, *at[1:])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("normalisation", ["pooled", "separate"])
@pytest.mark.parametrize("parts", [2, 4, 50])
def test_gradients_of_parts_add_up_to_that_of_the_batch(normalisation: str, parts: int) -> None:
    """Batch normalisation is frozen; the parts have different numbers of labelled pixels."""
    training = make(normalisation=normalisation, pseudo_weight=0.7)
    training.round()
    teacher, stored = training.pseudo_labelled()
    train_mode(training.model, frozen_norm=True)
    whole = training.prepared(torch.arange(6), teacher, stored)
    assert whole.pseudo is not None
    assert (whole.pseudo != VOID).any()
    each = list(whole.parts(parts))
    assert [len(part.images) for part in each] == {2: [3, 3], 4: [2, 2, 1, 1], 50: [1] * 6}[parts]
    assert len({int((part.targets != VOID).sum()) for part in each}) > 1

    def gradients(batches: list[Any]) -> tuple[float, list[torch.Tensor]]:
        training.model.zero_grad()
        total = 0.0
        for batch in batches:
            loss = training.loss_of(training.model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total, [p.grad.clone() for p in training.model.parameters() if p.grad is not None]

    (loss, expected), (added, found) = gradients([whole]), gradients(each)
    assert added == pytest.approx(loss, rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("relabel", ["round", "crop"])
def test_a_round_in_parts_is_the_same_round(relabel: str) -> None:
    changes = {"relabel": relabel, "class_weights": "equal", "optimizer": "sgd"}
    whole, in_parts = make(**changes), make(**changes)
    for training in (whole, in_parts):
        training.round()
    in_parts.config = {**in_parts.config, "accumulate": 3}
    one, other = whole.round(), in_parts.round()
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    for p, q in zip(whole.model.parameters(), in_parts.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gang_computes_in_parts_too(workers: int) -> None:
    """From the second round on, where batch normalisation is frozen, parts are the same training."""
    whole, in_parts = gang(workers, optimizer="sgd"), gang(workers, optimizer="sgd")
    for trainable in (whole, in_parts):
        trainable.step()
    models: list[torch.nn.Module] = []
    for trainable, parts in ((whole, 1), (in_parts, 3)):
        for worker in trainable.group.workers:
            session = next(iter(trainable.group._sessions[worker].values()))
            session.options["accumulate"], session._special = parts, parts > 1
        models.append(session.model)
    one, other = whole.step(), in_parts.step()
    assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert gang(workers, accumulate=3).step()["train_loss"] > 0


def test_what_cannot_be_is_told() -> None:
    for config, told in (
        ({"schedule": "linear"}, "schedule is one of poly, constant, cosine, step, one_cycle, got 'linear'"),
        ({"warmup": 1.0}, "warmup is a share of the steps of a round, 0 to below 1, or null, got 1.0"),
        ({"warmup": "slow"}, "warmup is a share .*, got 'slow'"),
        ({"accumulate": 0}, "accumulate: in how many parts"),
    ):
        with pytest.raises((ValueError, SpecError), match=told):
            make(**config)
        with pytest.raises((ValueError, SpecError), match=told):
            gang(**config)
