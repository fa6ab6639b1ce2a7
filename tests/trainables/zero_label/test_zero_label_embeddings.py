"""Class embeddings: the text form of word vectors, several words to a class, and everything that can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tune_platform.trainables.zero_label.datasets import load_vectors
from tune_platform.trainables.zero_label.embeddings import (
    SEVEN_SEGMENTS,
    EmbeddingError,
    class_matrix,
    read_attributes,
    read_vectors,
    word_vectors,
)
from tune_platform.trainables.zero_label.splits import load_split

HEADED = "4 3\nsheep 1 0 0\npotted 0 2 0\nplant 0 0 2\ntv 0.5 0.5 0\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_both_text_forms_are_read(tmp_path: Path) -> None:
    headed, bare = write(tmp_path / "a.vec", HEADED), write(tmp_path / "b.txt", HEADED.split("\n", 1)[1])
    for path in (headed, bare):
        found = read_vectors(path, ["sheep", "tv", "yak"])
        assert {word: vector.tolist() for word, vector in found.items()} == {"sheep": [1, 0, 0], "tv": [0.5, 0.5, 0]}


def test_a_number_as_a_word_is_not_taken_for_a_head(tmp_path: Path) -> None:
    path = write(tmp_path / "numbers.txt", "7 0.5 0.5\n8 1 0\n")
    assert set(read_vectors(path, ["7", "8"])) == {"7", "8"}


def test_files_are_joined_and_the_whole_is_scaled(tmp_path: Path) -> None:
    one = write(tmp_path / "a.vec", HEADED)
    two = write(tmp_path / "b.vec", "sheep 3 4\npotted_plant 0 7\ntv 1 1\n")
    found = word_vectors(["sheep", "potted plant", "tv"], [one, two])
    # No "potted plant" in the first file: the mean of its words; whole, with "_", in the second.
    assert found["potted plant"].tolist() == [0, 1, 1, 0, 7]
    matrix = class_matrix(found, ["sheep", "potted plant", "tv"])
    # Scaled once joined: 1, 0, 0, 3, 4 has length sqrt 26; scaled apart, each part would count the same.
    assert matrix[0].tolist() == pytest.approx([x / 26**0.5 for x in (1, 0, 0, 3, 4)])
    assert torch.linalg.vector_norm(matrix, dim=1).tolist() == pytest.approx([1, 1, 1])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.vec", HEADED)
    with pytest.raises(EmbeddingError, match="lacks 2 of 3 classes: sofa, wall-concrete"):
        word_vectors(["sheep", "sofa", "wall-concrete"], [path])
    with pytest.raises(EmbeddingError, match="at least one file"):
        word_vectors(["sheep"], [])
    with pytest.raises(EmbeddingError, match=r"gone\.vec cannot be read"):
        word_vectors(["sheep"], [tmp_path / "gone.vec"])
    with pytest.raises(EmbeddingError, match=r"the embeddings lack the class 'shep'.*did you mean 'sheep'"):
        class_matrix({"sheep": [1.0]}, ["shep"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sheep 1 0\ntv 1 0 0\n", "line 2: 3 numbers, but 2 on the lines before"),
        ("sheep 1 x\n", "line 1: 'sheep' is followed by could not convert"),
        ("", "holds no vectors"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        read_vectors(write(tmp_path / "bad.vec", text), ["sheep", "tv"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": [1.0, 2.0], "b": [1.0]}, "'b' has 1 numbers, but 'a' has 2"),
        ({"a": [1.0, float("nan")], "b": [1.0, 0.0]}, "must be finite and not all zero"),
        ({"a": [0.0, 0.0], "b": [1.0, 0.0]}, "must be finite and not all zero"),
        ({"a": [1.0, 2.0], "b": [2.0, 4.0]}, "'a' and 'b' have vectors of the same direction"),
    ],
)
def test_bad_vectors(table: dict[str, list[float]], message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        class_matrix(table, ["a", "b"])


def test_attributes_and_segments(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "cat,1,0.5\ndog,0,1\n")
    assert {name: row.tolist() for name, row in read_attributes(path).items()} == {"cat": [1, 0.5], "dog": [0, 1]}
    with pytest.raises(EmbeddingError, match="cannot be read"):
        read_attributes(write(tmp_path / "b.csv", "cat,one\n"))
    assert sum(SEVEN_SEGMENTS["8"]) == 7
    assert sum(SEVEN_SEGMENTS["1"]) == 2
    task = load_split("digits_248").task("final")
    matrix = load_vectors({"embeddings": "seven_segments"}, task)
    assert matrix.shape == (10, 7)
    assert (matrix[task.names.index("8")] > 0).all()
    for bad in ("five_segments", 3):
        with pytest.raises(EmbeddingError, match="embeddings are 'seven_segments'"):
            load_vectors({"embeddings": bad}, task)
