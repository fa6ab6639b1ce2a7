"""The trial: what it reports in which stage, what is told before training starts, resets, clones, the example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tune_platform.errors import SpecError
from tune_platform.spec import load_spec
from tune_platform.trainable import TrialContext, plain_metrics
from tune_platform.trainables.zero_label.datasets import Data
from tune_platform.trainables.zero_label.final import main as final_main
from tune_platform.trainables.zero_label.scenes import digit_scenes
from tune_platform.trainables.zero_label.trainable import DEFAULTS, ZeroLabelTrainable, complete

EXAMPLE = Path(__file__).parents[3] / "examples" / "zero_label.yaml"
SMALL: dict[str, Any] = {
    "train_scenes": 24, "width": 8, "base_steps": 6, "round_steps": 3, "batch_size": 6, "rounds": 1, "views": "shift",
}  # fmt: skip


def make(seed: int = 3, **changes: Any) -> ZeroLabelTrainable:
    trainable = ZeroLabelTrainable(TrialContext(seed=seed, resources={"cpu": 1}))
    trainable.setup({**SMALL, **changes})
    return trainable


def steps(trainable: ZeroLabelTrainable, count: int) -> list[dict[str, Any]]:
    reports = [plain_metrics(trainable.step()) for _ in range(count)]
    return [{name: value for name, value in report.items() if name != "images_per_s"} for report in reports]


def test_what_is_reported_while_tuning() -> None:
    trainable = make()
    first, second = steps(trainable, 2)
    assert {"val_hm", "val_seen_miou", "val_unseen_miou", "train_loss", "round"} <= set(first)
    assert "coverage" not in first
    assert not any(name.startswith(("test_", "hidden_")) for name in first)
    assert {"coverage", "hidden_coverage", "hidden_zero_label_accuracy"} <= set(second)
    assert [first["round"], second["round"]] == [0, 1]
    assert [first["done"], second["done"]] == [False, True]
    assert trainable.data.test is None  # the test images are not even opened


def test_reports_within_rounds() -> None:
    whole, parts = steps(make(), 2), steps(make(report_every=4), 3)
    assert [report["round"] for report in parts] == [0, 0, 1]
    assert [report["done"] for report in parts] == [False, False, True]
    assert [report["val_hm"] for report in parts[1:]] == [report["val_hm"] for report in whole]
    assert ["hidden_coverage" in report for report in parts] == [False, False, True]


def own_scenes(root: str | None, part: Any, task: Any, size: int | None) -> Any:
    return digit_scenes(task, part, 24) if part == "train" else digit_scenes(task, part)


def no_scenes(root: str | None, part: Any, task: Any, size: int | None) -> Any:
    return [root, part]


def test_images_by_a_function_of_ones_own() -> None:
    own = make(dataset=f"{__name__}:own_scenes")
    assert own.data.test is None
    assert own.step()["train_loss"] == make().step()["train_loss"]
    assert make(dataset=f"{__name__}:own_scenes", stage="final").data.test is not None
    with pytest.raises(SpecError, match="no_scenes returns list for 'train', not images with channels"):
        make(dataset=f"{__name__}:no_scenes")


def test_what_is_reported_in_the_final_stage() -> None:
    first = steps(make(stage="final"), 1)[0]
    assert "val_hm" not in first  # nothing to tune on
    assert {"val_seen_miou", "test_hm", "test_seen_miou", "test_unseen_miou", "test_iou/0"} <= set(first)


def test_final_validation_does_not_look_at_hidden_labels() -> None:
    one, other = make(stage="final"), make(stage="final")
    for digit, moved in ((2, 8), (4, 2), (8, 4)):
        other.data.val.labels[one.data.val.labels == digit] = moved  # type: ignore[attr-defined]
    a, b = steps(one, 1)[0], steps(other, 1)[0]
    assert a["val_seen_miou"] == b["val_seen_miou"]


def test_objective_by_hand() -> None:
    trainable = make(gamma=0.3)
    report = steps(trainable, 1)[0]
    assert trainable.data.val.take(torch.arange(3))[0].shape == (3, 1, 32, 32)
    training, val = trainable.training, trainable.data.val
    images, labels = val.take(torch.arange(len(val)))
    with torch.no_grad():
        chances = training.model.scores(images).softmax(1)
    chances[:, : training.task.seen] -= 0.3
    guess, truth = chances.argmax(1), training.task.positions(labels)
    each = []
    for c in range(len(training.task.names)):
        a, b = truth == c, (guess == c) & (truth >= 0)
        each.append(float((a & b).sum() / (a | b).sum()))
    s = sum(each[: training.task.seen]) / training.task.seen
    u = sum(each[training.task.seen :]) / training.task.unseen
    assert report["val_seen_miou"] == pytest.approx(s, abs=1e-6)
    assert report["val_unseen_miou"] == pytest.approx(u, abs=1e-6)
    assert report["val_hm"] == pytest.approx(2 * s * u / (s + u) if s + u else 0.0, abs=1e-6)


def test_diagnostics_and_pictures_leave_the_trial_as_it_was(tmp_path: Path) -> None:
    watched = ZeroLabelTrainable(TrialContext(seed=3, resources={"cpu": 1}, folder=str(tmp_path)))
    watched.setup({**SMALL, "diagnostics": True, "pictures": True})
    alone = make(diagnostics=False)
    for _ in range(2):
        a, b = steps(watched, 1)[0], steps(alone, 1)[0]
        assert {name: a[name] for name in b} == b
    for one, other in zip(watched.training.model.parameters(), alone.training.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (tmp_path / "filter.png").stat().st_size > 5000


def test_resume_equals_uninterrupted(tmp_path: Path) -> None:
    expected = steps(make(rounds=2), 3)
    first = make(rounds=2)
    steps(first, 2)
    first.save_checkpoint(tmp_path)
    second = make(rounds=2)
    second.load_checkpoint(tmp_path)
    assert steps(second, 1) == expected[2:]


def test_reset_equals_a_fresh_start_and_keeps_the_data() -> None:
    used = make()
    data = used.data
    steps(used, 1)
    assert used.reset_config({**SMALL, "method": "self_training"})
    assert used.data is data
    assert steps(used, 2) == steps(make(method="self_training"), 2)
    assert used.reset_config({**SMALL, "split": "digits_069"})
    used.config = {**SMALL, "split": "digits_069"}  # as backends do, so the defaults must not live there
    assert used.data is not data
    assert steps(used, 1) == steps(make(split="digits_069"), 1)


def test_a_clone_goes_on_with_its_own_hyperparameters(tmp_path: Path) -> None:
    source = make(rounds=2)
    steps(source, 2)
    source.save_checkpoint(tmp_path)
    clone = make(rounds=2, round_lr=1e-2, pseudo_weight=0.2)
    clone.load_checkpoint(tmp_path)
    assert steps(clone, 1)[0]["round"] == 2
    assert steps(source, 1)[0]["train_loss"] != 0
    pairs = zip(source.training.model.parameters(), clone.training.model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_the_objective_is_of_validation_scenes_that_are_neither_of_the_others() -> None:
    trainable = make(gamma=0.15, base_steps=30)
    task = trainable.task
    scenes = {part: digit_scenes(task, part) for part in ("train", "val", "test")}
    images, labels = trainable.data.val.take(torch.arange(len(trainable.data.val)))
    assert torch.equal(images, scenes["val"].images)
    assert torch.equal(labels, scenes["val"].labels)
    for part in ("train", "test"):
        known = {tuple(image.flatten().tolist()) for image in scenes[part].images}
        assert not any(tuple(image.flatten().tolist()) in known for image in images)
    trainable.training.round()
    before = trainable.evaluate()["val_hm"]
    assert before > 0
    train = trainable.data.train
    trainable.data = Data(scenes["test"], trainable.data.val, None)
    assert trainable.evaluate()["val_hm"] == before
    trainable.data = Data(train, scenes["test"], None)
    assert trainable.evaluate()["val_hm"] != before


@pytest.mark.parametrize("path", sorted(EXAMPLE.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_example_is_tuned_on_what_it_is_to_report(path: Path) -> None:
    # Policies are judged by episodes with seeds of their own; `test_return` is of others.
    assert all(metric.startswith("val_") or metric == "eval_return" for metric in load_spec(path).metrics)


def test_spnet_ends_after_its_only_round() -> None:
    assert steps(make(method="spnet"), 1)[0]["done"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"metod": "strict"}, "unknown hyperparameter 'metod' .*did you mean 'method'.*Allowed: dataset"),
        ({"method": "st"}, "method is one of spnet, longer, self_training, strict, got 'st'"),
        ({"views": "upside"}, "views is one of"),
        ({"dataset": "cityscapes"}, "dataset is one of scenes, .*, or 'module:function', got 'cityscapes'"),
        ({"dataset": "voc", "split": "voc12"}, "voc needs `root`"),
        ({"dataset": "scenes", "split": "coco_stuff"}, "the embeddings lack the class|at least one digit"),
        ({"split": "digits_000"}, "there is no split 'digits_000'"),
        ({"stage": "test"}, "stage is 'tune' or 'final', got 'test'"),
        ({"network": "unet"}, "network is 'small'"),
        ({"network": "deeplabv3_50"}, "takes images of 3 channels, these have 1"),
        ({"embeddings": ["gone.vec"]}, r"gone\.vec cannot be read"),
        ({"rounds": -1}, "rounds is a whole number, 0 or more, got -1"),
        ({"round_steps": 0}, "round_steps is a whole number, 1 or more, got 0"),
        ({"train_scale": [1.5, 1.0]}, "train_scale is two numbers"),
        ({"train_scale": [0.9]}, r"train_scale is two numbers 0 < low <= high, got \[0\.9\]"),
        ({"train_scale": 1.0}, r"train_scale is two numbers 0 < low <= high, got 1\.0"),
        ({"pseudo_weight": -1}, "pseudo_weight is a number, at least 0, got -1"),
        ({"round_lr": -1}, "round_lr is a number, above 0, got -1"),
        ({"base_lr": 0.0}, r"base_lr is a number, above 0, got 0\.0"),
        ({"head_lr": 0}, "head_lr is a number, above 0, got 0"),
        ({"base_lr": "fast"}, "base_lr is a number, above 0, got 'fast'"),
        ({"gamma": -0.1}, r"gamma is a number, at least 0 .*, got -0\.1"),
        ({"gamma": float("nan")}, "gamma is a number, at least 0 .*, got nan"),
        ({"flip": 2}, "flip is a number, a probability, 0 to 1, got 2"),
        ({"crop": [24]}, r"crop is two whole numbers \[height, width\], 1 or more, or null, got \[24\]"),
        ({"crop": 24}, "crop is two whole numbers .*, got 24"),
        ({"crop": [0, 24]}, r"crop is two whole numbers .*, got \[0, 24\]"),
        ({"width": 0}, "width is a whole number, 1 or more, got 0"),
        ({"train_scenes": 0}, "train_scenes is a whole number, 1 or more, got 0"),
        ({"background": "class"}, "background='class' needs a seen class named 'background' in the split"),
        ({"precision": "fp8"}, "precision is one of float32"),
        ({"logit_scale": -1.0}, "logit_scale is a number, above 0, got -1.0"),
        ({"weights": "resnet.pth"}, "weights are a file for a ResNet .*, got 'resnet.pth': network 'small' has none"),
    ],
)
def test_what_is_wrong_is_told_before_training(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**bad)


def test_example_is_sound_and_its_constants_are_hyperparameters() -> None:
    spec = load_spec(EXAMPLE)
    assert spec.check() == []
    assert spec.load_trainable() is ZeroLabelTrainable
    assert spec.trials == 24
    assert "stage: tune" in EXAMPLE.read_text()
    assert complete({}) == DEFAULTS


def test_the_best_configuration_is_trained_for_the_hidden_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    path = tmp_path / "best.json"
    path.write_text(json.dumps({**SMALL, "stage": "tune"}))
    final_main([str(path), "--out", str(tmp_path / "out"), "--seed", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["round", "test_seen_miou", "test_unseen_miou", "test_hm"]
    assert [line.split()[0] for line in lines[1:3]] == ["0", "1"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "filter_after_round_0.png", "filter_after_round_1.png",
    ]  # fmt: skip
    path.write_text("nothing")
    with pytest.raises(SystemExit):
        final_main([str(path)])
    assert "the configuration is not JSON" in capsys.readouterr().err


@pytest.mark.slow
def test_learns_to_segment_and_self_training_finds_unseen_digits() -> None:
    trainable = make(
        stage="final", split="digits_069", train_scenes=300, width=24, base_steps=350, round_steps=100, rounds=1,
        batch_size=16, method="self_training",
    )  # fmt: skip
    first, second = steps(trainable, 2)
    assert first["val_seen_miou"] > 0.5
    assert second["test_hm"] > first["test_hm"]
    assert second["test_seen_miou"] > first["test_seen_miou"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trains_on_a_gpu(tmp_path: Path) -> None:
    trainable = ZeroLabelTrainable(TrialContext(seed=1, resources={"cpu": 1, "gpu": 1}))
    trainable.setup({**SMALL, "precision": "float16", "rounds": 2})
    steps(trainable, 2)
    trainable.save_checkpoint(tmp_path)
    trainable.load_checkpoint(tmp_path)
    assert steps(trainable, 1)[0]["round"] == 2
