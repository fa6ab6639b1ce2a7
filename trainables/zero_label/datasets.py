"""The images of a task by the name of their dataset, in the parts that each stage may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tune_platform.errors import SpecError
from tune_platform.trainables.any_data import imported
from tune_platform.trainables.data import Split as Part
from tune_platform.trainables.zero_label.coco_stuff import coco_stuff
from tune_platform.trainables.zero_label.embeddings import (
    SEVEN_SEGMENTS,
    EmbeddingError,
    class_matrix,
    read_attributes,
    word_vectors,
)
from tune_platform.trainables.zero_label.scenes import LabelledImages, digit_scenes
from tune_platform.trainables.zero_label.shapes import ATTRIBUTES, shape_scenes
from tune_platform.trainables.zero_label.splits import Task
from tune_platform.trainables.zero_label.voc import voc

_READERS = {"voc": voc, "coco_stuff": coco_stuff}
DATASETS = ("scenes", "shapes", *_READERS)


@dataclass(frozen=True)
class Data:
    """`train` to train on and `val` to choose by; `test`, in the final stage only, to report on."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages | None


def load_data(config: Mapping[str, Any], task: Task) -> Data:
    """Load the dataset of `config` for `task`; the test images are opened in the final stage only.

    Raises ValueError for a dataset that there is not, DataError for one that is not on disk, corrupt or mislabelled.
    """
    name, final = config["dataset"], config["stage"] == "final"
    if name == "scenes":
        seed, digits = int(config["data_seed"]), str(config["digits"])
        train = digit_scenes(task, "train", int(config["train_scenes"]), seed, digits)
        # Scenes to judge by are the same for every seed.
        val = digit_scenes(task, "val", images=digits)
        return Data(train, val, digit_scenes(task, "test", images=digits) if final else None)
    if name == "shapes":
        drawn = shape_scenes(task, "train", int(config["train_scenes"]), int(config["data_seed"]))
        return Data(drawn, shape_scenes(task, "val"), shape_scenes(task, "test") if final else None)
    if name in _READERS:
        read, root, size = _READERS[name], config["root"], config["size"]
        parts: list[Part] = ["train", "val", "test"] if final else ["train", "val"]
        found = {part: read(root, part, task, size) for part in parts}
        for part, files in found.items():  # after all are found: it may take minutes
            files.check(part)
        return Data(found["train"], found["val"], found.get("test"))
    if ":" in name:
        own, root, size = imported(name, "dataset"), config["root"], config["size"]
        read_parts = {part: own(root, part, task, size) for part in ("train", "val", *(("test",) if final else ()))}
        for part, found_images in read_parts.items():
            if not all(hasattr(found_images, wanted) for wanted in ("channels", "size", "take", "__len__")):
                raise SpecError(
                    f"dataset: {name} returns {type(found_images).__name__} for {part!r}, not images with channels, "
                    "size, take(indices) and a length: see LabelledImages in zero_label/scenes.py"
                )
        return Data(read_parts["train"], read_parts["val"], read_parts.get("test"))
    raise ValueError(f"dataset is one of {', '.join(DATASETS)}, or 'module:function', got {name!r}")


def load_vectors(config: Mapping[str, Any], task: Task) -> Tensor:
    """Return the class embeddings of `config` as unit rows: classes x D.

    `embeddings` is "seven_segments", "shapes" (see `shapes.ATTRIBUTES`), the path of a .csv of attributes, or a list
    of word vector files, which are joined. Raises EmbeddingError for a class that is missing, a wrong width or an
    unreadable file.
    """
    wanted = config["embeddings"]
    if wanted == "seven_segments":
        return class_matrix(SEVEN_SEGMENTS, task.names)
    if wanted == "shapes":
        return class_matrix(ATTRIBUTES, task.names)
    if isinstance(wanted, str) and wanted.endswith(".csv"):
        return class_matrix(read_attributes(wanted), task.names)
    if isinstance(wanted, (list, tuple)):
        return class_matrix(word_vectors(task.names, wanted), task.names)
    raise EmbeddingError(
        "embeddings are 'seven_segments', 'shapes', the path of a .csv of attributes, or a list of word vector files, "
        f"got {wanted!r}"
    )
