"""Which classes are seen, which only play the unseen while hyperparameters are chosen, and which are hidden.

The splits are data files (`splits/*.json`). Each stage of the work has a task of its own (SPNet's protocol):

- "tune": train on the seen classes; the validation-unseen ones are unlabelled, and the objective is measured on them;
- "final": train on both; the unseen classes are unlabelled, and the test images are judged, once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Stage = Literal["tune", "final"]
#: Labels that are no class. A pixel that nobody judges: never trained on, never evaluated, never pseudo-labelled.
VOID = -1
#: A pixel of no class of the task, whose label the method does not know: it may be pseudo-labelled (wrongly).
OUTSIDE = -2
#: The data's own background, which is no class: see `supervision`.
BACKGROUND = -3

_FOLDER = Path(__file__).parent / "splits"


class SplitError(ValueError):
    """A split file, or a name in it, that does not fit."""


@dataclass(frozen=True)
class Task:
    """The classes of one stage, seen ones first: position 0 ... `seen` - 1 are seen, the rest unseen."""

    names: tuple[str, ...]
    seen: int
    ids: tuple[int, ...]  # the class id of each position
    classes: int  # number of class ids in the data

    def __post_init__(self) -> None:
        if not 0 < self.seen < len(self.names):
            raise SplitError(f"a task has seen and unseen classes, got {self.seen} seen of {len(self.names)}")

    @property
    def unseen(self) -> int:
        """Number of unseen classes."""
        return len(self.names) - self.seen

    def positions(self, labels: Tensor) -> Tensor:
        """Return `labels` (class ids, VOID or BACKGROUND; any shape) as positions; other classes become OUTSIDE."""
        table = torch.full((self.classes + 3,), OUTSIDE, dtype=torch.long, device=labels.device)
        table[list(self.ids)] = torch.arange(len(self.ids), device=labels.device)
        # Negative codes index the table from its end.
        table[VOID], table[OUTSIDE], table[BACKGROUND] = VOID, OUTSIDE, BACKGROUND
        return table[labels]


@dataclass(frozen=True)
class Split:
    """Class names in the order of their ids, and the three groups that they fall into."""

    name: str
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    validation_unseen: tuple[str, ...]
    unseen: tuple[str, ...]

    def __post_init__(self) -> None:
        groups = [*self.seen, *self.validation_unseen, *self.unseen]
        for name in groups:
            if name not in self.classes:
                near = get_close_matches(name, self.classes, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise SplitError(f"split {self.name}: {name!r} is not one of its {len(self.classes)} classes{hint}")
        if sorted(groups) != sorted(self.classes):
            doubled = sorted({name for name in groups if groups.count(name) > 1})
            missing = sorted(set(self.classes) - set(groups))
            raise SplitError(
                f"split {self.name}: each class is in exactly one of seen, validation_unseen and unseen; "
                f"in several: {doubled or 'none'}, in none: {missing or 'none'}"
            )

    def task(self, stage: Stage) -> Task:
        """Return the classes of `stage`. Raises ValueError for a stage that there is not."""
        if stage not in ("tune", "final"):
            raise ValueError(f"stage is 'tune' or 'final', got {stage!r}")
        seen = self.seen if stage == "tune" else (*self.seen, *self.validation_unseen)
        unseen = self.validation_unseen if stage == "tune" else self.unseen
        names = (*seen, *unseen)
        return Task(names, len(seen), tuple(self.classes.index(name) for name in names), len(self.classes))


def split_names() -> list[str]:
    """Return the names of the splits that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_split(name: str | Path) -> Split:
    """Load a split by the name of a file in `splits/`, or from the path of another JSON file of that form.

    `seen` may be left out of the file: then it is every class that the other two groups do not name. Raises
    SplitError where there is no such split or the file is not one.
    """
    path = Path(name) if str(name).endswith(".json") else _FOLDER / f"{name}.json"
    if not path.is_file():
        raise SplitError(
            f"there is no split {str(name)!r}; there are {', '.join(split_names())}, or the path of a .json"
        )
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        classes = tuple(data["classes"])
        validation, unseen = tuple(data["validation_unseen"]), tuple(data["unseen"])
        seen: Sequence[str] = data.get("seen") or [c for c in classes if c not in {*validation, *unseen}]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SplitError(
            f"{path} is not a split: it needs the lists classes, validation_unseen and unseen ({error!r})"
        ) from error
    return Split(path.stem, classes, tuple(seen), validation, unseen)


@dataclass(frozen=True)
class Supervision:
    """What a method may know of an image: `targets` (seen positions or VOID) and where pseudo-labels may go."""

    targets: Tensor
    candidates: Tensor


#: What the data's background is: never looked at; not told apart from unseen classes, as in the released code; or a
#: seen class of its own (the class named "background"), which also stands where pseudo-labels do not.
BACKGROUNDS = ("void", "unlabelled", "class")


def check_background(background: str, task: Task) -> None:
    """Raise ValueError for a `background` that there is not, or a "class" that `task` has not seen."""
    if background not in BACKGROUNDS:
        raise ValueError(f"background is one of {', '.join(BACKGROUNDS)}, got {background!r}")
    if background == "class" and "background" not in task.names[: task.seen]:
        raise ValueError("background='class' needs a seen class named 'background' in the split")


def supervision(positions: Tensor, task: Task, background: str = "void") -> Supervision:
    """Hide the unseen classes: return what training may see of labels given as `positions` (Task.positions).

    Only labels of unseen classes, of no class of the task and, if `background` says so, of the background are
    candidates; VOID is none. With "class" all of these carry the seen class "background" as target until a
    pseudo-label overwrites it. Raises ValueError for another `background`, or a "class" that the task has not seen.
    """
    check_background(background, task)
    candidates = (positions >= task.seen) | (positions == OUTSIDE)
    if background == "unlabelled":
        candidates |= positions == BACKGROUND
    targets = torch.where((positions >= 0) & (positions < task.seen), positions, VOID)
    if background == "class":
        own = task.names.index("background")
        candidates |= (positions == own) | (positions == BACKGROUND)
        targets = torch.where(candidates, own, targets)
    return Supervision(targets, candidates)
