"""Scenes of textured shapes with attribute codes: a class is a shape and a texture, and mirror images keep it.

A class is named "circle striped" and so on: four shapes times three textures. Its attributes are which shape and which
texture it has, so an unseen class is a new pair of things that have been seen: nearer to what attributes are to
photographs than the bars of a digit. Colours say nothing. Everything is symmetric, so a flip keeps the label, and all
view sets can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tune_platform.trainables.data import Split as Part
from tune_platform.trainables.runtime import generator
from tune_platform.trainables.zero_label.scenes import COUNTS, Scenes
from tune_platform.trainables.zero_label.splits import BACKGROUND, Task

SHAPES = ("circle", "square", "triangle", "cross")
TEXTURES = ("striped", "banded", "dotted")
CLASSES = tuple(f"{shape} {texture}" for shape in SHAPES for texture in TEXTURES)
#: One number for each shape and each texture, one where the class has it.
ATTRIBUTES: Mapping[str, tuple[float, ...]] = {
    name: tuple(float(part in name.split()) for part in (*SHAPES, *TEXTURES)) for name in CLASSES
}


def inside(shape: str, rows: Tensor, columns: Tensor) -> Tensor:
    """Return which points belong to a shape; coordinates are -1 ... 1 from its centre, every shape mirrors itself."""
    if shape == "circle":
        return rows**2 + columns**2 < 1
    if shape == "square":
        return torch.maximum(rows.abs(), columns.abs()) < 0.85
    if shape == "triangle":
        return (columns.abs() < (rows + 1) / 2) & (rows.abs() < 1)
    if shape == "cross":
        return (torch.minimum(rows.abs(), columns.abs()) < 0.35) & (torch.maximum(rows.abs(), columns.abs()) < 1)
    raise ValueError(f"shape is one of {', '.join(SHAPES)}, got {shape!r}")


def ink(texture: str, rows: Tensor, columns: Tensor) -> Tensor:
    """Return which pixels of a texture are dark; coordinates are pixels from the centre of the shape."""
    across, down = (columns.abs() % 4) < 2, (rows.abs() % 4) < 2
    found = {"striped": across, "banded": down, "dotted": across & down}.get(texture)
    if found is None:
        raise ValueError(f"texture is one of {', '.join(TEXTURES)}, got {texture!r}")
    return found


def compose_shapes(
    classes: Tensor, count: int, draws: torch.Generator, *, cell: int = 20, per_scene: int = 3, noise: float = 0.15
) -> Scenes:
    """Compose `count` colour scenes of 2 x 2 cells of `cell` pixels from the class ids in `classes`.

    Radius, place and the two colours of each object are drawn, as is the background's colour; noise lies over all.
    Raises ValueError for no classes or a number of objects that has no room.
    """
    if not len(classes) or not 1 <= per_scene <= 4:
        raise ValueError(
            f"scenes need at least one class and 1 to 4 objects, got {len(classes)} classes, per_scene={per_scene}"
        )
    side = 2 * cell
    images = torch.rand(count, 3, 1, 1, generator=draws).expand(count, 3, side, side) * 0.3 + 0.35
    images = images.clone()
    truth = torch.full((count, side, side), BACKGROUND)
    grid = torch.arange(side, dtype=torch.float32)
    for scene in range(count):
        cells = torch.randperm(4, generator=draws)[:per_scene].tolist()
        chosen = classes[torch.randint(len(classes), (per_scene,), generator=draws)].tolist()
        for where, which in zip(cells, chosen, strict=True):
            radius = cell * (0.32 + 0.13 * float(torch.rand(1, generator=draws)))
            shifts = (torch.rand(2, generator=draws) * 2 - 1) * (cell / 2 - radius)
            middle = [cell * (k + 0.5) + float(shift) for k, shift in zip(divmod(where, 2), shifts, strict=True)]
            rows, columns = torch.meshgrid(grid - middle[0], grid - middle[1], indexing="ij")
            shape, texture = CLASSES[which].split()
            covered = inside(shape, rows / radius, columns / radius)
            dark, light = torch.rand(3, generator=draws) * 0.3, 0.7 + torch.rand(3, generator=draws) * 0.3
            paint = torch.where(ink(texture, rows, columns), dark[:, None, None], light[:, None, None])
            images[scene] = torch.where(covered, paint, images[scene])
            truth[scene][covered] = which
    images += noise * (torch.rand(images.shape, generator=draws) - 0.5)
    return Scenes(images.clamp(0, 1), truth)


def shape_scenes(task: Task, part: Part, count: int | None = None, seed: int = 0) -> Scenes:
    """Return the scenes of `part` ("train", "val" or "test") for `task`, of its classes alone; `seed` draws them."""
    draws = generator("cpu", seed, "shapes", part)
    return compose_shapes(torch.tensor(task.ids), COUNTS[part] if count is None else count, draws)
