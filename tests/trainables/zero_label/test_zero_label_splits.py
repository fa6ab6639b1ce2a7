"""Splits: the paper's classes, what a stage may know, and what training sees of an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tune_platform.trainables.zero_label.splits import (
    BACKGROUND,
    OUTSIDE,
    VOID,
    Split,
    SplitError,
    load_split,
    split_names,
    supervision,
)


def test_the_papers_splits() -> None:
    voc, coco = load_split("voc12"), load_split("coco_stuff")
    assert [len(group) for group in (voc.seen, voc.validation_unseen, voc.unseen)] == [12, 3, 5]
    assert voc.unseen == ("potted plant", "sheep", "sofa", "train", "tv")
    assert voc.validation_unseen == ("horse", "motorbike", "person")
    assert [len(group) for group in (coco.seen, coco.validation_unseen, coco.unseen)] == [155, 12, 15]
    assert {"giraffe", "playingfield", "wall-concrete"} < set(coco.unseen)
    # COCO-Stuff's own numbering, less one.
    assert [coco.classes.index(name) for name in ("person", "giraffe", "hair brush", "banner", "wood")] == [
        0, 24, 90, 91, 181,
    ]  # fmt: skip


@pytest.mark.parametrize("name", split_names())
def test_hidden_classes_play_no_part_in_tuning(name: str) -> None:
    split = load_split(name)
    tune, final = split.task("tune"), split.task("final")
    assert set(tune.names).isdisjoint(split.unseen)
    assert tune.names[tune.seen :] == split.validation_unseen
    assert set(final.names[: final.seen]) == set(split.seen) | set(split.validation_unseen)
    assert final.names[final.seen :] == split.unseen
    assert [split.classes[i] for i in final.ids] == list(final.names)


def test_positions_put_seen_classes_first() -> None:
    split = Split("s", ("a", "b", "c", "d"), seen=("c",), validation_unseen=("a",), unseen=("b", "d"))
    labels = torch.tensor([[0, 1, 2, 3], [VOID, BACKGROUND, 2, 0]])
    final = split.task("final").positions(labels)
    assert final.tolist() == [[1, 2, 0, 3], [VOID, BACKGROUND, 0, 1]]
    # While tuning the hidden b and d are of no class, and nobody may know where they are.
    tune = split.task("tune").positions(labels)
    assert tune.tolist() == [[1, OUTSIDE, 0, OUTSIDE], [VOID, BACKGROUND, 0, 1]]


def test_training_sees_seen_labels_only() -> None:
    task = Split("s", ("a", "b", "c", "d"), ("a", "b"), ("c",), ("d",)).task("tune")
    positions = torch.tensor([0, 1, 2, OUTSIDE, BACKGROUND, VOID])
    known = supervision(positions, task)
    assert known.targets.tolist() == [0, 1, VOID, VOID, VOID, VOID]
    assert known.candidates.tolist() == [False, False, True, True, False, False]
    # As released: the background cannot be told from unseen classes. Void stays void.
    released = supervision(positions, task, "unlabelled")
    assert released.targets.tolist() == known.targets.tolist()
    assert released.candidates.tolist() == [False, False, True, True, True, False]


def test_background_as_a_class_stands_until_a_pseudo_label_comes() -> None:
    split = load_split("voc12_background")
    task = split.task("final")
    sofa = task.names.index("sofa")
    known = supervision(torch.tensor([0, 3, sofa, VOID]), task, "class")
    assert task.names[0] == "background"
    assert known.targets.tolist() == [0, 3, 0, VOID]
    assert known.candidates.tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="needs a seen class named 'background'"):
        supervision(torch.tensor([0]), load_split("voc12").task("final"), "class")
    with pytest.raises(ValueError, match="background is one of void, unlabelled, class, got 'seen'"):
        supervision(torch.tensor([0]), task, "seen")


def test_a_split_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"classes": ["a", "b", "c"], "validation_unseen": ["b"], "unseen": ["c"]}))
    assert load_split(path).seen == ("a",)
    path.write_text(json.dumps({"classes": ["a", "bee", "c"], "validation_unseen": ["be"], "unseen": ["c"]}))
    with pytest.raises(SplitError, match="'be' is not one of its 3 classes; did you mean 'bee'"):
        load_split(path)
    path.write_text(json.dumps({"classes": ["a", "b", "c"], "validation_unseen": ["c"], "unseen": ["c"]}))
    with pytest.raises(SplitError, match=r"in several: \['c'\]"):
        load_split(path)
    for text in ("{", '{"classes": []}', "[]"):
        path.write_text(text)
        with pytest.raises(SplitError, match="is not a split"):
            load_split(path)
    with pytest.raises(SplitError, match="there is no split 'voc13'; there are coco_stuff"):
        load_split("voc13")
    with pytest.raises(ValueError, match="stage is 'tune' or 'final', got 'test'"):
        load_split("voc12").task("test")  # type: ignore[arg-type]
