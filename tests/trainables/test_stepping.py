"""What a real training wants of a step: parts of a batch, clipping, float16, averages, sharded evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tune_platform.distributed import Gang
from tune_platform.errors import SpecError
from tune_platform.trainable import TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.stepping import SteppingWorker, split

SMALL = {"task": "synthetic", "examples": 128, "batch_size": 16, "updates": 8, "report_every": 4, "lr": 0.05}


def begin(workers: int = 1, **config: Any) -> ClassificationTrainable:
    trainable = ClassificationTrainable(TrialContext(seed=5, gang=Gang("threads", workers)))
    trainable.setup({**SMALL, **config})
    return trainable


def loop(steps: int = 8, clip: float = 0.0, decay: float = 0.0) -> dict[str, float]:
    """The same training by hand: batches of one worker from the platform, everything else written out."""
    recipe = ClassificationTrainable(TrialContext(seed=5))
    recipe.config = SMALL
    worker = _worker(recipe)
    model, optimizer = worker.model, worker.optimizer
    averages = [p.detach().clone() for p in model.parameters()]
    for _ in range(steps):
        images, labels = worker.position.next()
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        averages = [decay * a + (1 - decay) * p.detach() for a, p in zip(averages, model.parameters(), strict=True)]
    if decay:
        for p, a in zip(model.parameters(), averages, strict=True):
            p.data.copy_(a)
    return recipe.evaluate(model.eval())


def _worker(recipe: ClassificationTrainable) -> SteppingWorker:
    made: list[SteppingWorker] = []

    class Kept(SteppingWorker):
        def __init__(self, recipe: Any, place: Any) -> None:
            super().__init__(recipe, place)
            made.append(self)

    class Recipe(ClassificationTrainable):
        worker_class = Kept

    trainable = Recipe(recipe.context)
    trainable.setup({**recipe.config, "workers": 1})
    return made[0]


def run(**config: Any) -> dict[str, Any]:
    trainable = begin(**config)
    trainable.step()
    return trainable.step()


@pytest.mark.parametrize("parts", [1, 3, 16, 50])
def test_a_batch_in_parts_is_the_same_step(parts: int) -> None:
    assert run(accumulate=parts)["val_loss"] == pytest.approx(loop()["val_loss"], rel=1e-5)


def test_gradients_are_clipped() -> None:
    assert run(max_grad_norm=0.05)["val_loss"] == pytest.approx(loop(clip=0.05)["val_loss"], rel=1e-5)
    assert run(max_grad_norm=0.05)["val_loss"] != pytest.approx(loop()["val_loss"], rel=1e-3)


def test_averaged_weights_are_what_is_evaluated() -> None:
    assert run(ema=0.9, strategy="all_reduce")["val_loss"] == pytest.approx(loop(decay=0.9)["val_loss"], rel=1e-5)


def test_clipping_and_parts_keep_replicas_equal() -> None:
    report = run(workers=2, strategy="all_reduce", accumulate=2, max_grad_norm=0.1, ema=0.5)  # or it raises
    assert report["val_loss"] < 10


def test_float16_scales_the_loss_and_trains() -> None:
    trainable = begin(precision="float16", model="cnn")
    first, last = trainable.step(), trainable.step()
    assert last["train_loss"] < first["train_loss"]


@pytest.mark.parametrize("config", [{"ema": 0.9, "strategy": "all_reduce"}, {"precision": "float16"}])
def test_a_resumed_training_equals_one_in_one_go(tmp_path: Path, config: dict[str, Any]) -> None:
    whole = begin(**config)
    whole.step()
    whole.save_checkpoint(tmp_path)
    resumed = begin(**config)
    resumed.load_checkpoint(tmp_path)
    names = ("val_loss", "val_accuracy", "test_loss", "train_loss")
    one, other = whole.step(), resumed.step()
    assert [one[name] for name in names] == [other[name] for name in names]


@pytest.mark.parametrize("strategy", ["all_reduce", {"name": "local_sgd", "period": 3}])
def test_an_evaluation_that_is_shared_finds_the_same(strategy: Any) -> None:
    first = run(workers=3, strategy=strategy)
    shared = run(workers=3, strategy=strategy, evaluation="sharded")
    for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy"):
        assert shared[name] == pytest.approx(first[name], rel=1e-5)


def test_test_images_are_read_when_asked() -> None:
    for asked, reports in (("never", (False, False)), ("last", (False, True)), ("always", (True, True))):
        trainable = begin(test=asked)
        assert tuple("test_loss" in trainable.step() for _ in range(2)) == reports


def test_what_cannot_be_is_told_before_a_step() -> None:
    for config, told in (
        ({"accumulate": 0}, "accumulate: in how many parts"),
        ({"max_grad_norm": -1.0}, "max_grad_norm: the largest norm"),
        ({"ema": 1.0}, "ema: the decay"),
        ({"evaluation": "all"}, "evaluation: 'first' or 'sharded'"),
        ({"test": "sometimes"}, "test: 'always' or 'last' or 'never'"),
        ({"ema": 0.9, "strategy": {"name": "local_sgd", "period": 2}}, "ema: takes a strategy whose workers are equal"),
        ({"accumulate": 2, "strategy": {"name": "codistillation", "period": 2}}, "compares outputs of whole batches"),
    ):
        with pytest.raises(SpecError, match=told):
            begin(2 if "strategy" in config else 1, **config)


def test_deterministic_mode_is_on_while_it_trains_only() -> None:
    seen: list[bool] = []

    class Watching(ClassificationTrainable):
        def loss(self, model: Any, batch: Any) -> Any:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return super().loss(model, batch)

    trainable = Watching(TrialContext(seed=5))
    trainable.setup({**SMALL, "deterministic": True})
    trainable.step()
    assert all(seen)
    assert seen
    assert not torch.are_deterministic_algorithms_enabled()


def test_batches_are_split_with_their_structure() -> None:
    batch = {"x": torch.arange(5), "y": [torch.arange(5), torch.arange(10).view(5, 2)]}
    parts = split(batch, 2)
    assert [len(part["x"]) for part in parts] == [3, 2]
    assert torch.equal(parts[1]["y"][1], torch.tensor([[6, 7], [8, 9]]))
    with pytest.raises(TypeError, match="tensors in lists or dicts, got int"):
        split(3, 2)


def test_schedules_know_their_end() -> None:
    def rates(**config: Any) -> list[float]:
        recipe = ClassificationTrainable(TrialContext())
        recipe.config = {"lr": 1.0, **config}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = recipe.build_scheduler(recipe.config, optimizer, 20)
        assert scheduler is not None
        found = []
        for _ in range(21):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    assert rates(schedule="step")[9:16] == pytest.approx([1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01])
    cycle = rates(schedule="one_cycle")
    assert cycle[0] == pytest.approx(1 / 25 + 24 / 25 / 6)
    assert cycle.index(max(cycle)) in (5, 6)
    assert max(cycle) == pytest.approx(1)
    assert cycle[20] == pytest.approx(0)


def test_channels_last_changes_the_layout_and_not_the_result() -> None:
    plain, last = run(model="cnn"), run(model="cnn", channels_last=True)
    assert last["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)


@pytest.mark.slow  # the compiler takes seconds
def test_a_compiled_model_trains_alike() -> None:
    recipe = ClassificationTrainable(TrialContext())
    recipe.config = {**SMALL, "compile": True}
    assert recipe.build_model(recipe.config)._compiled_call_impl is not None
    assert run(compile=True)["val_loss"] == pytest.approx(run()["val_loss"], rel=1e-4)


@pytest.mark.parametrize("strategy", ["all_reduce", {"name": "local_sgd", "period": 2}])
def test_a_lean_checkpoint_is_lean_after_the_last_step_only(strategy: Any, tmp_path: Path) -> None:
    trainable = begin(2, strategy=strategy, optimizer="adamw", lean_checkpoints=True)
    for kept in (True, False):
        trainable.step()
        trainable.save_checkpoint(tmp_path)
        state = torch.load(tmp_path / "worker-00000.pt", weights_only=True)
        assert (state["optimizer"] is not None) == kept
    longer = begin(2, strategy=strategy, optimizer="adamw", updates=12)
    longer.load_checkpoint(tmp_path)
    assert longer.step()["updates"] == 12
