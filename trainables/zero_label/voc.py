"""PASCAL VOC 2012 with the augmented training labels (10,582 images); its "val" list is the paper's test set."""

from __future__ import annotations

from pathlib import Path

from tune_platform.trainables.data import DataError
from tune_platform.trainables.data import Split as Part
from tune_platform.trainables.zero_label.files import ImageFiles, held_out, require
from tune_platform.trainables.zero_label.splits import BACKGROUND, VOID, Task

LAYOUT = """  {root}/JPEGImages/2007_000032.jpg ...
  {root}/SegmentationClassAug/2007_000032.png ...   (or SegmentationClass/; values 0 background, 1 ... 20, 255 void)
  {root}/ImageSets/Segmentation/train_aug.txt       (one image's name a line; or train.txt)
  {root}/ImageSets/Segmentation/val.txt"""


def voc(root: str | None, part: Part, task: Task, size: int | None) -> ImageFiles:
    """Return VOC's images for `task`, warped to `size` pixels (513 if None).

    "train" and "val" are parts of the training list, "test" is VOC's own validation list. The value 255 is VOID; 0 is
    BACKGROUND, or the class of that name in a split of 21 classes. Raises DataError for what is not on disk.
    """
    if task.classes not in (20, 21):
        raise DataError(f"PASCAL VOC has 20 classes, or 21 with the background, but the split has {task.classes}")
    if root is None:
        raise DataError("voc needs `root`, the folder VOC2012, laid out like this:\n" + LAYOUT)
    folder = Path(root).expanduser()
    layout = LAYOUT.replace("{root}", str(folder))
    lists = folder / "ImageSets" / "Segmentation"
    wanted = ["val.txt"] if part == "test" else ["train_aug.txt", "train.txt"]
    path = next((lists / name for name in wanted if (lists / name).is_file()), lists / wanted[0])
    require([path], "PASCAL VOC", layout)
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if part != "test":
        names = held_out(names, part)
    labels = next(
        (folder / name for name in ("SegmentationClassAug", "SegmentationClass") if (folder / name).is_dir()),
        folder / "SegmentationClassAug",
    )
    pairs = [(folder / "JPEGImages" / f"{name}.jpg", labels / f"{name}.png") for name in names]
    require([path for pair in pairs for path in pair], "PASCAL VOC", layout)
    first = BACKGROUND if task.classes == 20 else 0
    shift = 1 if task.classes == 20 else 0
    table = [first, *(value - shift for value in range(1, 21)), *([None] * 234), VOID]
    return ImageFiles(pairs, table, (size or 513, size or 513))
