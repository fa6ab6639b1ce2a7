"""The rounds: what the teacher and the student are, determinism, exact resume, diagnostics that leave no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tune_platform.trainables.runtime import autocast
from tune_platform.trainables.zero_label.augment import augment
from tune_platform.trainables.zero_label.diagnostics import diagnose
from tune_platform.trainables.zero_label.optimizing import build_optimizer, poly, train_mode
from tune_platform.trainables.zero_label.scenes import Scenes, digit_scenes
from tune_platform.trainables.zero_label.self_training import SelfTraining, scored_at_once
from tune_platform.trainables.zero_label.splits import VOID, load_split
from tune_platform.trainables.zero_label.teacher import Teacher
from tune_platform.trainables.zero_label.trainable import build_model, complete

SMALL: dict[str, Any] = {
    "stage": "final", "train_scenes": 24, "width": 8, "base_steps": 6, "round_steps": 4, "batch_size": 6, "rounds": 2,
    "views": "shift",
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return digit_scenes(load_split("digits_248").task("final"), "train", 24)


def make(scenes: Scenes, seed: int = 3, **changes: Any) -> SelfTraining:
    config = complete({**SMALL, **changes})
    task = load_split("digits_248").task("final")
    return SelfTraining(config, task, scenes, build_model(config, task, 1, "cpu", seed), seed)


def weights(training: SelfTraining) -> list[torch.Tensor]:
    return [value.clone() for value in training.model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def timeless(result: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in result.items() if name != "images_per_s"}


def test_strict_with_the_identity_alone_is_plain_self_training(scenes: Scenes) -> None:
    strict, plain = make(scenes, method="strict", views="identity"), make(scenes, method="self_training")
    for _ in range(3):
        assert timeless(strict.round()) == timeless(plain.round())
    assert same(weights(strict), weights(plain))


def test_the_teacher_stays_and_the_student_moves_on_from_it(scenes: Scenes) -> None:
    training = make(scenes)
    training.round()
    before = [p.clone() for p in training.model.parameters()]
    training.part(1)
    assert training._present is not None
    teacher = training._present.teacher
    assert teacher is not None
    training.round()
    assert same(before, list(teacher.model.parameters()))
    assert not same(before, list(training.model.parameters()))
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_the_teacher_sees_views_of_whole_cells(scenes: Scenes) -> None:
    """The network has stride 2: of a view of 35 x 35 pixels it would leave a row and a column out."""
    teacher = Teacher(make(scenes).model, complete({**SMALL, "views": "scale_shift"}), torch.Generator())
    sizes: list[tuple[int, ...]] = []
    teacher.model.backbone.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    teacher.propose(scenes.images[:2], scenes.labels[:2] >= 0)
    assert sizes == [(32, 32), (36, 36), (40, 40), (44, 44), (48, 48), (54, 54)]


def test_word_vectors_never_move(scenes: Scenes) -> None:
    training = make(scenes, weight_decay=0.5)
    before = training.model.vectors.clone()
    for _ in range(2):
        training.round()
    assert torch.equal(before, training.model.vectors)
    torch.testing.assert_close(before.norm(dim=1), torch.ones(10))


def test_hidden_labels_change_nothing(scenes: Scenes) -> None:
    """Renaming the unseen digits in the truth leaves the training as it was: it cannot have looked."""
    renamed = scenes.labels.clone()
    for digit, other in ((2, 8), (4, 2), (8, 4)):
        renamed[scenes.labels == digit] = other
    one, other_training = make(scenes), make(Scenes(scenes.images, renamed))
    for _ in range(2):
        assert timeless(one.round()) == timeless(other_training.round())
    assert same(weights(one), weights(other_training))
    assert diagnose(one, 0) != diagnose(other_training, 0)  # what looks at them does tell the difference


def test_diagnostics_leave_the_training_as_it_was(scenes: Scenes) -> None:
    for views in ("shift", "random"):
        watched, alone = make(scenes, views=views), make(scenes, views=views)
        for _ in range(3):
            found = diagnose(watched, 7)
            watched.round()
            alone.round()
        assert same(weights(watched), weights(alone))
        assert torch.equal(watched.draws.get_state(), alone.draws.get_state())
        assert 0 <= found["hidden_coverage"] <= 1


def test_diagnostics_by_hand(scenes: Scenes) -> None:
    training = make(scenes, views="mirror_up", base_steps=60, base_lr=0.01)
    training.round()
    found = diagnose(training, 7, images=10)
    teacher = Teacher(training.model, training.config, torch.Generator())
    images, known = training.batch(torch.arange(10))
    truth = training.task.positions(scenes.labels[:10])
    labels, proposed, _ = teacher.propose(images, known.candidates)
    hidden = truth >= training.task.seen
    assert torch.equal(known.candidates, hidden)  # the background is void, so all that is unlabelled is unseen
    kept = labels != VOID
    assert found["hidden_precision"] == pytest.approx(float((labels == truth)[kept].float().mean()))
    assert found["hidden_coverage"] == pytest.approx(float(kept[hidden].float().mean()))
    assert found["hidden_zero_label_accuracy"] == pytest.approx(float((proposed == truth)[hidden].float().mean()))
    dropped = hidden & ~kept
    assert found["hidden_dropped_precision"] == pytest.approx(float((proposed == truth)[dropped].float().mean()))


@pytest.mark.parametrize("changes", [{}, {"relabel": "crop", "views": "random"}, {"method": "longer"}])
def test_resume_equals_uninterrupted(scenes: Scenes, changes: dict[str, Any], tmp_path: Path) -> None:
    whole = make(scenes, **changes)
    expected = [timeless(whole.round()) for _ in range(3)]
    first = make(scenes, **changes)
    assert [timeless(first.round()) for _ in range(2)] == expected[:2]
    first.save(tmp_path)
    torch.manual_seed(99)
    second = make(scenes, seed=5, **changes)
    second.load(tmp_path)
    ended = [second.finished]
    assert timeless(second.round()) == expected[2]
    assert [*ended, second.finished] == [False, True]
    assert same(weights(whole), weights(second))


CHANGES: list[dict[str, Any]] = [
    {}, {"relabel": "crop", "views": "random"}, {"views": "random", "class_weights": "agreement"}, {"method": "longer"},
    {"optimizer": "sgd", "head_lr": 10.0, "frozen_norm": False}, {"precision": "bfloat16"},
]  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES)
def test_rounds_in_parts_are_the_same_rounds(scenes: Scenes, changes: dict[str, Any], tmp_path: Path) -> None:
    """Stopped and gone on with in another process after every part, also in the middle of a round."""
    whole = make(scenes, **changes)
    expected = [timeless(whole.round()) for _ in range(3)]
    training, found, places = make(scenes, **changes), [], []
    while not training.finished:
        number = training.rounds_done
        found.append((number, timeless(training.part(3))))
        training.confusion(scenes)  # a measurement changes nothing
        places.append(training.steps_done)
        training.save(tmp_path)
        training = make(scenes, seed=5, **changes)
        training.load(tmp_path)
    assert places == [3, 0, 3, 0, 3, 0]  # of 6, 4 and 4 steps
    assert same(weights(whole), weights(training))
    for number, result in enumerate(expected):
        parts = [each for at, each in found if at == number]
        steps = [3, 3] if number == 0 else [3, 1]
        mean = sum(n * part["train_loss"] for n, part in zip(steps, parts, strict=True)) / sum(steps)
        assert mean == pytest.approx(result["train_loss"], rel=1e-5)
        assert parts[-1].get("coverage") == result.get("coverage")


def test_a_clone_goes_on_within_a_round_with_its_own_settings(scenes: Scenes, tmp_path: Path) -> None:
    source = make(scenes)
    source.round()
    source.part(2)
    source.save(tmp_path)
    for changes in ({"optimizer": "sgd", "round_lr": 0.5}, {"method": "longer"}, {"round_steps": 1}):
        clone = make(scenes, seed=9, **changes)
        clone.load(tmp_path)
        assert same(weights(clone), weights(source))
        assert clone.steps_done == min(2, int(clone.config["round_steps"]))
        clone.round()
        assert clone.rounds_done == 2
    with pytest.raises(RuntimeError, match="between two rounds"):
        source.branch(source.config)


def test_seed_decides_and_the_global_generator_is_left_alone(scenes: Scenes) -> None:
    state = torch.random.get_rng_state()
    one, two, other = make(scenes), make(scenes), make(scenes, seed=4)
    results = [timeless(training.round()) for training in (one, two, other)]
    assert results[0] == results[1] != results[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_branches_do_not_touch_each_other(scenes: Scenes) -> None:
    trunk = make(scenes, base_steps=60, base_lr=0.01)
    trunk.round()
    before = weights(trunk)
    one = trunk.branch({**trunk.config, "views": "mirror_up"})
    two = trunk.branch(trunk.config)
    one.round()
    assert same(before, weights(trunk))
    assert timeless(two.round()) == timeless(trunk.round())
    assert not same(weights(one), weights(two))


def test_rounds_keep_statistics_that_round_0_has_learnt(scenes: Scenes) -> None:
    def statistics(training: SelfTraining) -> torch.Tensor:
        return torch.cat([b.flatten().float() for name, b in training.model.named_buffers() if "running" in name])

    for frozen in (True, False):
        training = make(scenes, frozen_norm=frozen)
        start = statistics(training)
        training.round()
        base = statistics(training)
        training.round()
        assert not torch.equal(start, base)
        assert torch.equal(base, statistics(training)) is frozen


def test_round_0_and_the_control_use_seen_classes_only(scenes: Scenes) -> None:
    asked: list[str] = []
    training = make(scenes, method="longer")
    training.model.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[1]))
    training.round()
    training.round()
    assert set(asked) == {"seen"}
    strict = make(scenes)
    strict.rounds_done = 1
    strict.model.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[1]))
    asked.clear()
    strict.round()
    # The student is asked for all classes. (The teacher's copy carries the hook too, for unseen ones.)
    assert set(asked) == {"all", "unseen"}
    assert asked.count("all") == 4


def test_background_is_pseudo_labelled_only_as_released(scenes: Scenes) -> None:
    right, released = make(scenes), make(scenes, background="unlabelled")
    indices = torch.arange(24)
    ours, theirs = (training.batch(indices)[1].candidates for training in (right, released))
    background = scenes.labels == scenes.labels.min()
    assert not (ours & background).any()
    assert (theirs & background).float().sum() == background.float().sum()
    assert not (ours & ~theirs).any()
    for training in (right, released):
        training.round()
    assert diagnose(right, 0)["hidden_precision"] > 4 * diagnose(released, 0)["hidden_precision"]


def test_augmentation_moves_images_and_labels_alike() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (4, 16, 16), generator=draws)
    images = labels[:, None].float() / 5
    for flip in (0.0, 1.0):
        x, y = augment(images, (labels,), (1.0, 1.0), (9, 12), flip, draws)
        assert x.shape == (4, 1, 9, 12)
        torch.testing.assert_close(x[:, 0] * 5, y.float())
    x, y = augment(images, (labels,), (0.5, 0.5), (16, 16), 0.0, draws)
    assert (y[:, 8:] == VOID).all()
    assert (y[:, :, 8:] == VOID).all()
    assert (y[:, :8, :8] != VOID).all()
    assert torch.equal(x[:, :, 8], x[:, :, 7])  # the border goes on


def test_schedule_and_groups(scenes: Scenes) -> None:
    factors = [poly(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 5)
    assert factors[10:] == pytest.approx([(1 - step / 100) ** 0.9 for step in range(10, 100)])
    training = make(scenes)
    for name in ("sgd", "adamw"):
        optimizer = build_optimizer({**training.config, "optimizer": name, "head_lr": 10.0}, training.model, 0.01)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.1, 0.2])
        assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 1e-4, 0.0]
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in training.model.parameters()}
        assert len(held) == len({id(p) for p in held})
    train_mode(training.model, frozen_norm=True)
    norms = [m for m in training.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(m.training for m in norms)
    assert training.model.training


def test_mixed_precision_trains(scenes: Scenes) -> None:
    training = make(scenes, precision="bfloat16")
    results = [training.round() for _ in range(2)]
    assert all(torch.isfinite(torch.tensor(result["train_loss"])) for result in results)
    assert all(p.dtype == torch.float32 for p in training.model.parameters())
    with autocast("cpu", "bfloat16"):
        assert training.model(scenes.images[:2]).dtype == torch.bfloat16
    assert training.model.scores(scenes.images[:2]).dtype == torch.float32


def test_an_evaluation_takes_as_many_images_at_once_as_fit(scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of one image of 513 x 513 pixels take 192 MB where there are 182 classes, as in COCO-Stuff."""
    assert scored_at_once((513, 513), 182) == 5
    assert scored_at_once((48, 48), 10) == 100
    assert scored_at_once((10_000, 10_000), 182) == 1
    training = make(scenes)
    whole = training.confusion(scenes)
    image = 4 * len(training.task.names) * scenes.size[0] * scenes.size[1]
    monkeypatch.setattr("tune_platform.trainables.zero_label.self_training.SCORE_BYTES", 5 * image)
    assert [len(scores) for scores, _ in training.predictions(scenes)] == [5, 5, 5, 5, 4]
    assert torch.equal(training.confusion(scenes), whole)
