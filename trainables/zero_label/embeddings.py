"""One fixed vector for each class: word vectors from text files, or attributes.

SPNet joins the fastText and the word2vec vector of a class and scales the result to length one. Any file in the text
form of either is read: one word and its numbers a line, with or without a first line of "count width".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

#: Which of the seven bars of a pocket calculator's display are lit for each digit: top, upper right, lower right,
#: bottom, lower left, upper left, middle.
SEVEN_SEGMENTS: Mapping[str, tuple[float, ...]] = {
    digit: tuple(float(bar) for bar in bars)
    for digit, bars in zip(
        "0123456789",
        ("1111110", "0110000", "1101101", "1111001", "0110011", "1011011", "1011111", "1110000", "1111111", "1111011"),
        strict=True,
    )
}


class EmbeddingError(ValueError):
    """Embeddings that lack a class, have the wrong width, or cannot be read."""


def read_vectors(path: str | Path, words: Sequence[str]) -> dict[str, Tensor]:
    """Return the vectors of those of `words` that the text file at `path` holds (word2vec or fastText form).

    The file is read line by line and only the wanted lines are kept, so that files of gigabytes do. Raises
    EmbeddingError for a missing file, a line that is not numbers, or lines of differing width.
    """
    wanted, found, width = set(words), dict[str, Tensor](), 0
    for number, word, numbers in _lines(Path(path)):
        width = width or len(numbers)
        if len(numbers) != width:
            raise EmbeddingError(f"{path}, line {number}: {len(numbers)} numbers, but {width} on the lines before")
        if word in wanted and word not in found:
            try:
                found[word] = torch.tensor([float(x) for x in numbers])
            except ValueError as error:
                raise EmbeddingError(f"{path}, line {number}: {word!r} is followed by {error}") from error
    if not width:
        raise EmbeddingError(f"{path} holds no vectors: lines of a word and its numbers are expected")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                word, *numbers = line.rstrip().split(" ")
                if number == 1 and len(numbers) == 1 and word.isdigit():  # "count width"
                    continue
                if numbers:
                    yield number, word, numbers
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddingError(f"the embedding file {path} cannot be read: {error}") from error


def word_vectors(classes: Sequence[str], paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """Return a vector for each class: its vectors in all files, joined in the files' order.

    A class of several words ("potted plant", "wall-concrete") is looked up whole, with "_" and "-" between its words
    too, else it is the mean of its words' vectors. Raises EmbeddingError naming every class that a file lacks.
    """
    if not paths:
        raise EmbeddingError("word vectors take at least one file, got none")
    parts = {name: [part for part in re.split(r"[\s_-]+", name) if part] for name in classes}
    whole = {name: list(dict.fromkeys([name, "_".join(p), "-".join(p)])) for name, p in parts.items()}
    joined: dict[str, list[Tensor]] = {name: [] for name in classes}
    for path in paths:
        found = read_vectors(path, [word for name in classes for word in (*whole[name], *parts[name])])
        missing = []
        for name in classes:
            direct = next((found[word] for word in whole[name] if word in found), None)
            if direct is None and all(part in found for part in parts[name]):
                direct = torch.stack([found[part] for part in parts[name]]).mean(0)
            if direct is None:
                missing.append(name)
            else:
                joined[name].append(direct)
        if missing:
            raise EmbeddingError(f"{path} lacks {len(missing)} of {len(classes)} classes: {', '.join(missing[:8])}")
    return {name: torch.cat(vectors) for name, vectors in joined.items()}


def read_attributes(path: str | Path) -> dict[str, Tensor]:
    """Return the rows of a CSV file without a header: the class, then its attributes as numbers."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return {row[0]: torch.tensor([float(x) for x in row[1:]]) for row in csv.reader(file) if row}
    except (OSError, ValueError) as error:
        raise EmbeddingError(f"the attribute file {path} cannot be read: {error}") from error


def class_matrix(table: Mapping[str, Tensor | Sequence[float]], classes: Sequence[str]) -> Tensor:
    """Return the vectors of `classes` as rows of length one (classes x width, float32), in their order.

    Raises EmbeddingError for a class that is missing, vectors of differing width, numbers that are not finite, or a
    vector of zeros, which has no direction.
    """
    rows: list[Tensor] = []
    for name in classes:
        if name not in table:
            near = get_close_matches(name, list(table), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise EmbeddingError(f"the embeddings lack the class {name!r} (they have {len(table)} classes){hint}")
        row = torch.as_tensor(table[name], dtype=torch.float32)
        if rows and row.shape != rows[0].shape:
            raise EmbeddingError(f"{name!r} has {row.numel()} numbers, but {classes[0]!r} has {rows[0].numel()}")
        if not torch.isfinite(row).all() or not row.any():
            raise EmbeddingError(f"the vector of {name!r} must be finite and not all zero, got {row.tolist()[:8]}")
        rows.append(row)
    matrix = functional.normalize(torch.stack(rows), dim=1)
    return _distinct(matrix, classes)


def _distinct(matrix: Tensor, classes: Sequence[str]) -> Tensor:
    alike = torch.triu(matrix @ matrix.T, diagonal=1) > 1 - 1e-6
    if alike.any():
        i, j = (int(k) for k in alike.nonzero()[0])
        raise EmbeddingError(
            f"{classes[i]!r} and {classes[j]!r} have vectors of the same direction: nothing tells them apart"
        )
    return matrix
