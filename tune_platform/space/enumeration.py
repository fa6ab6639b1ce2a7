"""Numbering the points of a finite space: how many there are, and which is number n, without listing them.

Parameters are digits of a mixed-radix number; a parameter that does not exist at a point takes no digit,
so no point comes twice. Where existence depends on earlier values, subtrees are counted; the counts depend
only on the values that later conditions read, so they are kept, and a million points cost a few counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.space.tree import Fixed, Guard, Leaf, parents


class Enumeration:
    """The points spanned by some parameters (`leaves`, parents first). The last parameter changes fastest.

    A condition on a parameter that is not among `leaves` counts as met. Memory: one count for each
    combination of the values that conditions read.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._leaves = tuple(leaves)
        for leaf in self._leaves:
            if leaf.domain.size is None:
                raise SpecError(
                    f"a grid needs finitely many values, but {leaf.name!r} is {leaf.domain}: "
                    "give it a step, or use choice or grid_search"
                )
        known = {leaf.name for leaf in self._leaves}
        self._guards = [tuple(guard for guard in leaf.guards if _read_by(guard) <= known) for leaf in self._leaves]
        self._sizes = [leaf.domain.size or 0 for leaf in self._leaves]
        # at position i, the earlier parameters that conditions at i or later still read
        self._needed: list[tuple[str, ...]] = []
        self._product: list[int | None] = []  # points from position i on, where no condition is left
        for i in range(len(self._leaves) + 1):
            read = {name for guards in self._guards[i:] for guard in guards for name in _read_by(guard)}
            earlier = [leaf.name for leaf in self._leaves[:i]]
            self._needed.append(tuple(name for name in earlier if name in read))
            self._product.append(math.prod(self._sizes[i:]) if not any(self._guards[i:]) else None)
        self._counts: dict[tuple[int, tuple[int, ...]], int] = {}
        self.total = self._count(0, {}, {})  #: the number of points

    def point(self, number: int) -> dict[str, Any]:
        """Return the values at point `number`, from 0; IndexError beyond the last."""
        if not 0 <= number < self.total:
            raise IndexError(f"point {number} of a grid of {self.total}")
        values: dict[str, Any] = {}
        digits: dict[str, int] = {}
        for i, leaf in enumerate(self._leaves):
            if not self._active(i, values):
                continue
            if leaf.name not in self._needed[i + 1]:
                digit, number = divmod(number, self._count(i + 1, values, digits))
                self._set(leaf, digit, values, digits)
                continue
            for digit in range(self._sizes[i]):
                self._set(leaf, digit, values, digits)
                below = self._count(i + 1, values, digits)
                if number < below:
                    break
                number -= below
        return values

    def _active(self, i: int, values: Mapping[str, Any]) -> bool:
        return all(guard.met(values) for guard in self._guards[i])

    @staticmethod
    def _set(leaf: Leaf, digit: int, values: dict[str, Any], digits: dict[str, int]) -> None:
        values[leaf.name], digits[leaf.name] = leaf.domain.at(digit), digit

    def _count(self, i: int, values: dict[str, Any], digits: dict[str, int]) -> int:
        """Count the points that begin with the values of the parameters before position i."""
        product = self._product[i]
        if product is not None:
            return product
        key = (i, tuple(digits.get(name, -1) for name in self._needed[i]))
        if key not in self._counts:
            self._counts[key] = self._count_anew(i, values, digits)
        return self._counts[key]

    def _count_anew(self, i: int, values: dict[str, Any], digits: dict[str, int]) -> int:
        leaf = self._leaves[i]
        if not self._active(i, values):
            return self._count(i + 1, values, digits)
        if leaf.name not in self._needed[i + 1]:
            return self._sizes[i] * self._count(i + 1, values, digits)
        total = 0
        for digit in range(self._sizes[i]):
            self._set(leaf, digit, values, digits)
            total += self._count(i + 1, values, digits)
        del values[leaf.name], digits[leaf.name]
        return total


def _read_by(guard: Guard) -> set[str]:
    names: set[str] = set()
    for target in guard.targets:
        names |= {leaf.name for leaf in parents(target)} if isinstance(target, Fixed) else {target.name}
    return names
