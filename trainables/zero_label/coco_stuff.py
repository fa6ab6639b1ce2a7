"""COCO-Stuff 164k: 91 things and 91 stuff classes, every pixel labelled but the void."""

from __future__ import annotations

from pathlib import Path

from tune_platform.trainables.data import DataError
from tune_platform.trainables.data import Split as Part
from tune_platform.trainables.zero_label.files import ImageFiles, held_out, require
from tune_platform.trainables.zero_label.splits import VOID, Task

LAYOUT = """  {root}/images/train2017/000000000009.jpg ...
  {root}/images/val2017/000000000139.jpg ...
  {root}/annotations/train2017/000000000009.png ...   (stuffthingmaps: values 0 ... 181, 255 void)
  {root}/annotations/val2017/000000000139.png ..."""


def coco_stuff(root: str | None, part: Part, task: Task, size: int | None) -> ImageFiles:
    """Return COCO-Stuff's images for `task`, warped to `size` pixels (513 if None).

    "train" and "val" are parts of train2017, "test" is val2017. Raises DataError for what is not on disk.
    """
    if task.classes != 182:
        raise DataError(f"COCO-Stuff has 182 classes, but the split has {task.classes}")
    if root is None:
        raise DataError("coco_stuff needs `root`, the dataset's folder, laid out like this:\n" + LAYOUT)
    folder = Path(root).expanduser()
    layout = LAYOUT.replace("{root}", str(folder))
    year = "val2017" if part == "test" else "train2017"
    labels = folder / "annotations" / year
    require([labels, folder / "images" / year], "COCO-Stuff", layout)
    names = sorted(path.stem for path in labels.glob("*.png"))
    if part != "test":
        names = held_out(names, part)
    if not names:
        raise DataError(f"COCO-Stuff: {labels} has too few label images. Expected:\n{layout}")
    pairs = [(folder / "images" / year / f"{name}.jpg", labels / f"{name}.png") for name in names]
    require([image for image, _ in pairs], "COCO-Stuff", layout)
    return ImageFiles(pairs, [*range(182), *([None] * 73), VOID], (size or 513, size or 513))
