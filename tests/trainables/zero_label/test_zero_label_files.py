"""PASCAL VOC and COCO-Stuff from files: small made-up folders of the right layout, and of wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tune_platform.trainable import TrialContext
from tune_platform.trainables.data import DataError
from tune_platform.trainables.zero_label import files
from tune_platform.trainables.zero_label.coco_stuff import coco_stuff
from tune_platform.trainables.zero_label.embeddings import EmbeddingError
from tune_platform.trainables.zero_label.files import held_out
from tune_platform.trainables.zero_label.splits import BACKGROUND, VOID, load_split
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable
from tune_platform.trainables.zero_label.voc import voc

VOC, COCO = load_split("voc12").task("final"), load_split("coco_stuff").task("final")


def save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """Twenty-two training images and two others; each label image has the quarters 0, 1, 20 and 255."""
    labels = np.zeros((8, 8), np.uint8)
    labels[:4, 4:], labels[4:, :4], labels[4:, 4:] = 1, 20, 255
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(24)]
    (lists / "train_aug.txt").write_text("\n".join(names[:22]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[22:]) + "\n")
    for index, name in enumerate(names):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", np.full((8, 8, 3), 10 * index, np.uint8))
        save(tmp_path / "SegmentationClassAug" / f"{name}.png", labels)
    return tmp_path


def test_voc_is_read(voc_root: Path) -> None:
    parts = {part: voc(str(voc_root), part, VOC, 16) for part in ("train", "val", "test")}
    assert {part: len(files) for part, files in parts.items()} == {"train": 19, "val": 3, "test": 2}
    paths = [{image for image, _ in files.pairs} for files in parts.values()]
    assert not paths[0] & paths[1]
    assert not (paths[0] | paths[1]) & paths[2]
    images, labels = parts["train"].take(torch.tensor([4, 0]))
    assert images.shape == (2, 3, 16, 16)
    assert float(images[0].mean()) == pytest.approx(10 * 5 / 255, abs=0.02)  # every tenth is held out, so 4 is the 5th
    quarters = labels[0, [4, 4, 12, 12], [4, 12, 4, 12]].tolist()
    assert quarters == [BACKGROUND, 0, 19, VOID]
    positions = VOC.positions(labels)
    assert positions[0, 4, 12] == VOC.names.index("aeroplane")
    assert positions[0, 12, 4] == VOC.names.index("tv") == 19


def test_background_may_be_a_class(voc_root: Path) -> None:
    task = load_split("voc12_background").task("final")
    labels = voc(str(voc_root), "test", task, None).take(torch.tensor([0]))[1]
    assert labels.shape == (1, 513, 513)
    assert sorted(set(labels.flatten().tolist())) == [VOID, 0, 1, 20]


def test_what_is_missing_is_shown_with_the_layout(voc_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)files are missing.*JPEGImages/2007_000032\.jpg"):
        voc(str(tmp_path / "nowhere"), "train", VOC, 16)
    with pytest.raises(DataError, match=r"(?s)voc needs `root`.*ImageSets"):
        voc(None, "train", VOC, 16)
    (voc_root / "SegmentationClassAug" / "2007_000022.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 files are missing, the first is .*2007_000022\.png"):
        voc(str(voc_root), "test", VOC, 16)
    with pytest.raises(DataError, match="has 20 classes, or 21 with the background, but the split has 182"):
        voc(str(voc_root), "test", COCO, 16)


def test_bad_label_images(voc_root: Path) -> None:
    files = voc(str(voc_root), "test", VOC, 16)
    first = files.pairs[0][1]
    save(first, np.full((8, 8), 77, np.uint8))
    with pytest.raises(DataError, match=r"2007_000022\.png has the labels \[77\], which stand for no class"):
        files.take(torch.tensor([0]))
    save(first, np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match="they must agree"):
        files.take(torch.tensor([0]))
    save(first, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="has mode RGB"):
        files.take(torch.tensor([0]))
    first.write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        files.take(torch.tensor([0]))


def test_coco_stuff_is_read(tmp_path: Path) -> None:
    for year, count in (("train2017", 11), ("val2017", 2)):
        for index in range(count):
            save(tmp_path / "images" / year / f"{index:012d}.jpg", np.zeros((4, 4, 3), np.uint8))
            save(tmp_path / "annotations" / year / f"{index:012d}.png", np.full((4, 4), [24, 0, 181, 255], np.uint8))
    parts = {part: coco_stuff(str(tmp_path), part, COCO, 4) for part in ("train", "val", "test")}
    assert {part: len(files) for part, files in parts.items()} == {"train": 9, "val": 2, "test": 2}
    labels = parts["test"].take(torch.tensor([1]))[1]
    assert labels[0, 0].tolist() == [24, 0, 181, VOID]
    assert [COCO.names[int(p)] for p in COCO.positions(labels)[0, 0, :3]] == ["giraffe", "person", "wood"]
    assert int(COCO.positions(labels)[0, 0, 0]) >= COCO.seen
    (tmp_path / "images" / "val2017" / "000000000001.jpg").unlink()
    with pytest.raises(DataError, match=r"(?s)1 of 2 files are missing.*stuffthingmaps"):
        coco_stuff(str(tmp_path), "test", COCO, 4)
    for root, what in ((str(tmp_path / "gone"), "files are missing"), (None, "needs `root`")):
        with pytest.raises(DataError, match=what):
            coco_stuff(root, "train", COCO, 4)
    with pytest.raises(DataError, match="has 182 classes, but the split has 20"):
        coco_stuff(str(tmp_path), "train", VOC, 4)


def test_held_out_items_are_every_tenth() -> None:
    items = [str(i) for i in range(25)]
    assert held_out(items, "val") == ["0", "10", "20"]
    assert sorted([*held_out(items, "val"), *held_out(items, "train")]) == sorted(items)


def write_attributes(path: Path) -> Path:
    draws = np.random.default_rng(0).normal(size=(20, 9))
    names = load_split("voc12").classes
    path.write_text("".join(f"{name},{','.join(map(str, row))}\n" for name, row in zip(names, draws, strict=True)))
    return path


@pytest.mark.parametrize("network", ["small", pytest.param("deeplabv3_50", marks=pytest.mark.slow)])
def test_a_trial_trains_on_files(voc_root: Path, network: str) -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[:4, :4], labels[:4, 4:], labels[4:, :4], labels[4:, 4:] = 1, 13, 20, 255  # aeroplane, horse, tv, void
    for path in (voc_root / "SegmentationClassAug").iterdir():
        save(path, labels)
    trainable = ZeroLabelTrainable(TrialContext(seed=1, resources={"cpu": 1}))
    trainable.setup({
        "dataset": "voc", "root": str(voc_root), "split": "voc12", "size": 48, "crop": [40, 40], "network": network,
        "width": 8, "embeddings": str(write_attributes(voc_root / "a.csv")), "views": "mirror_up", "relabel": "crop",
        "flip": 0.5, "base_steps": 2, "round_steps": 1, "batch_size": 4, "rounds": 1, "optimizer": "sgd",
        "head_lr": 10.0,
    })  # fmt: skip
    first, second = trainable.step(), trainable.step()
    assert 0 <= first["val_hm"] <= 1
    assert 0 < second["coverage"] <= 1
    # While tuning nobody knows that the tv is no horse: both quarters are candidates, the void is not.
    candidates = trainable.training.batch(torch.arange(2))[1].candidates
    assert float(candidates.float().mean()) == pytest.approx(0.5)
    assert second["hidden_precision"] < 1


def jpeg_of(name: str, root: Path) -> Path:
    return root / "JPEGImages" / f"{name}.jpg"


def label_of(name: str, root: Path) -> Path:
    return root / "SegmentationClassAug" / f"{name}.png"


def cut_jpeg(root: Path) -> None:
    path = jpeg_of("2007_000003", root)
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    save(label_of("2007_000003", root), np.zeros((64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:-1500])  # the header is sound


def cut_label(root: Path) -> None:
    path = label_of("2007_000003", root)
    save(path, np.random.default_rng(0).integers(0, 20, (8, 8), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-30])


def many_labels(root: Path) -> None:
    for index in range(1, 9):
        save(label_of(f"2007_{index:06d}", root), np.full((8, 8), 21, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_jpeg, r"1 of the 19 train images cannot be used:\n  .*2007_000003\.jpg cannot be read"),
        (cut_label, r"1 of the 19 train images cannot be used:\n  .*2007_000003\.png cannot be read"),
        (
            lambda root: save(label_of("2007_000010", root), np.zeros((8, 9), np.uint8)),
            r"1 of the 3 val images .*2007_000010\.jpg is 8 x 8 pixels and its labels .* are 8 x 9: they must agree",
        ),
        (
            lambda root: save(label_of("2007_000021", root), np.zeros((8, 8, 3), np.uint8)),
            r"1 of the 19 train images .*2007_000021\.png has mode RGB",
        ),
        (
            lambda root: save(label_of("2007_000021", root), np.full((8, 8), 77, np.uint8)),
            r"2007_000021\.png has the labels \[77\], which stand for no class",
        ),
        (
            many_labels,
            r"8 of the 19 train images cannot be used:.*000001\.png.*000005\.png .*\.\.\. and 3 more",
        ),
        (
            lambda root: jpeg_of("2007_000023", root).write_bytes(b"no picture"),
            r"1 of the 2 test images cannot be used:\n  .*2007_000023\.jpg cannot be read",
        ),
    ],
)
def test_bad_files_are_told_before_training(voc_root: Path, spoil: Callable[[Path], object], message: str) -> None:
    config = {
        "dataset": "voc", "root": str(voc_root), "split": "voc12", "size": 16, "width": 8, "stage": "final",
        "embeddings": str(write_attributes(voc_root / "a.csv")),
    }  # fmt: skip
    ZeroLabelTrainable(TrialContext(seed=1, resources={"cpu": 2})).setup(config)
    spoil(voc_root)
    with pytest.raises(DataError, match="(?s)" + message):
        ZeroLabelTrainable(TrialContext(seed=1, resources={"cpu": 1})).setup(config)


def test_the_check_of_many_files_tells_its_progress(
    voc_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tune_platform.trainables.checked.TELL_EVERY", -1.0)
    with caplog.at_level("INFO"):
        voc(str(voc_root), "test", VOC, 16).check("test")
    assert [record.getMessage() for record in caplog.records] == [f"checked {i} of 2 test images" for i in (1, 2)]


def test_files_that_were_found_good_are_not_opened_again(voc_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    plain = files._open

    def noting(path: Path, **kwargs: Any) -> Any:
        opened.append(path)
        return plain(path, **kwargs)

    monkeypatch.setattr(files, "_open", noting)
    voc(str(voc_root), "test", VOC, 16).check("test")
    assert len(opened) == 4
    voc(str(voc_root), "test", VOC, 16).check("test")
    assert len(opened) == 4
    jpeg_of("2007_000023", voc_root).write_bytes(b"no picture")
    for _ in range(2):  # what is bad is not noted as good
        with pytest.raises(DataError, match="1 of the 2 test images"):
            voc(str(voc_root), "test", VOC, 16).check("test")


def test_what_is_wrong_with_an_embedding_is_told_before_training(voc_root: Path) -> None:
    path = write_attributes(voc_root / "a.csv")
    path.write_text(path.read_text().replace("horse,", "house,"))
    trainable = ZeroLabelTrainable(TrialContext(seed=1, resources={"cpu": 1}))
    with pytest.raises(EmbeddingError, match=r"lack the class 'horse'.*did you mean 'house'"):
        trainable.setup(
            {"dataset": "voc", "root": str(voc_root), "split": "voc12", "size": 16, "embeddings": str(path)}
        )
