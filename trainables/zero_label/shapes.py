"""Scenes of textured shapes with attribute codes: a class is a shape and a texture, and mirror images keep it.

A class is named "circle striped" and so on: four shapes times three textures. Its attributes are which shape and which
texture it has, so an unseen class is a new pair of things that have been seen: nearer to what attributes are to
photographs than the bars of a digit. Colours say nothing. Shapes and textures are symmetric, so a flip keeps the label,
and all view sets can be compared. Turned objects, patterns behind them, a light from one side, what is hidden and noise
keep them from being easy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Clutter:
    """What keeps scenes from being easy, as in photographs; the default is none of it but a little noise.

    `noise`: range of the uniform noise over all. `contrast`: least and largest difference of a texture's two colours.
    `tilt`: objects are turned by up to so many degrees, less than what makes stripes bands. `periods`: least and
    largest width of a texture's repeat in pixels. `ground`: contrast of the patterns behind the objects, which are
    of the same kinds as theirs. `shade`: largest share of the light that is missing at one side of a scene. `hidden`:
    largest share of an object's width that a bar of the ground's colour covers; what is covered has no label.
    """

    noise: float = 0.15
    contrast: tuple[float, float] = (0.4, 1.0)
    tilt: float = 0.0
    periods: tuple[float, float] = (4.0, 4.0)
    ground: float = 0.0
    shade: float = 0.0
    hidden: float = 0.0


#: That of the data set "shapes".
PHOTOGRAPHED = Clutter(
    noise=0.25, contrast=(0.3, 0.8), tilt=20.0, periods=(3.5, 6.0), ground=0.1, shade=0.5, hidden=0.3
)


def compose_shapes(
    classes: Tensor,
    count: int,
    draws: torch.Generator,
    *,
    cell: int = 20,
    per_scene: int = 3,
    clutter: Clutter = PHOTOGRAPHED,
) -> Scenes:
    """Compose `count` colour scenes of 2 x 2 cells of `cell` pixels from the class ids in `classes`.

    Radius, place, turn, texture's width and the two colours of each object are drawn, as are the ground and the light.
    Raises ValueError for no classes or a number of objects that has no room.
    """
    if not len(classes) or not 1 <= per_scene <= 4:
        raise ValueError(
            f"scenes need at least one class and 1 to 4 objects, got {len(classes)} classes, per_scene={per_scene}"
        )
    made = [_scene(classes, draws, cell, per_scene, clutter) for _ in range(count)]
    return Scenes(torch.stack([image for image, _ in made]), torch.stack([truth for _, truth in made]))


def _scene(classes: Tensor, draws: torch.Generator, cell: int, objects: int, clutter: Clutter) -> tuple[Tensor, Tensor]:
    """Return one scene (3 x H x W) and its labels (H x W)."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=draws))

    side = 2 * cell
    rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")

    def turned(by: float, middle: tuple[float, float]) -> tuple[Tensor, Tensor]:
        c, s = math.cos(math.radians(by)), math.sin(math.radians(by))
        down, right = rows - middle[0], columns - middle[1]
        return c * down - s * right, s * down + c * right

    def painted(texture: str, at: tuple[Tensor, Tensor], contrast: float) -> Tensor:
        """Return a texture in two colours whose channels differ by `contrast` each, on average halfway."""
        scale = 4 / between(*clutter.periods)
        dark = torch.rand(3, generator=draws) * (1 - contrast)
        return torch.where(ink(texture, at[0] * scale, at[1] * scale), 0.0, contrast) + dark[:, None, None]

    def any_texture() -> str:
        return TEXTURES[int(torch.randint(len(TEXTURES), (), generator=draws))]

    image = 0.35 + 0.3 * torch.rand(3, 1, 1, generator=draws).expand(3, side, side)
    if clutter.ground:
        image = painted(any_texture(), turned(between(0, 180), (cell, cell)), clutter.ground)
    truth = torch.full((side, side), BACKGROUND)
    cells = torch.randperm(4, generator=draws)[:objects].tolist()
    for where, which in zip(cells, torch.randint(len(classes), (objects,), generator=draws), strict=True):
        radius = cell * between(0.32, 0.45)
        play = cell / 2 - radius
        down, right = (cell * (k + 0.5) + between(-play, play) for k in divmod(where, 2))
        at = turned(between(-clutter.tilt, clutter.tilt), (down, right))
        shape, texture = CLASSES[int(classes[which])].split()
        covered = inside(shape, at[0] / radius, at[1] / radius)
        if clutter.hidden:
            along = turned(between(0, 180), (down, right))[0] / radius
            covered &= along < 1 - 2 * between(0, clutter.hidden)
        image = torch.where(covered, painted(texture, at, between(*clutter.contrast)), image)
        truth[covered] = int(classes[which])
    light = turned(between(0, 360), (cell, cell))[0] / side + 0.5
    image = image * (1 - between(0, clutter.shade) * light.clamp(0, 1))
    image = image + clutter.noise * (torch.rand(image.shape, generator=draws) - 0.5)
    return image.clamp(0, 1), truth


def shape_scenes(task: Task, part: Part, count: int | None = None, seed: int = 0) -> Scenes:
    """Return the scenes of `part` ("train", "val" or "test") for `task`, of its classes alone; `seed` draws them."""
    draws = generator("cpu", seed, "shapes", part)
    return compose_shapes(torch.tensor(task.ids), COUNTS[part] if count is None else count, draws)
