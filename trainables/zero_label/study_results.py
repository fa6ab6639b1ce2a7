"""The rows of a study, and what follows from them for its tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]


class Results:
    """The rows of a study, by triple, seed, arm and round."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if row["arm"] != "calibration"]
        self.calibrations = {row["split"]: row for row in rows if row["arm"] == "calibration"}
        self._found = {(row["split"], row["seed"], row["arm"], row["round"]): row for row in self.rows}
        self.splits = list(dict.fromkeys(row["split"] for row in self.rows))
        seeds: list[int] = list(dict.fromkeys(row["seed"] for row in self.rows))
        # Only seeds with every triple, so that means over triples are of the same triples.
        self.seeds = [seed for seed in seeds if all((split, seed, "strict", 1) in self._found for split in self.splits)]
        self.rows = [row for row in self.rows if row["seed"] in self.seeds]
        self.rounds = max((row["round"] for row in self.rows), default=0)

    def value(self, split: str, seed: int, arm: str, name: str, number: int | None = None) -> float:
        """Return one number: of the last round, or SPNet's only one, if `number` is None."""
        last = self.rounds if (split, seed, arm, self.rounds) in self._found else 0
        return float(self._found[split, seed, arm, last if number is None else number][name])

    def over_seeds(self, arm: str, name: str, split: str | None = None, number: int | None = None) -> list[float]:
        """Return a number for each seed: of one triple, or averaged over all."""
        splits = self.splits if split is None else [split]
        return [float(np.mean([self.value(s, seed, arm, name, number) for s in splits])) for seed in self.seeds]

    def of(self, arm: str) -> list[Row]:
        """Return the rows of an arm, of those of the seeds that have it."""
        return [row for row in self.rows if row["arm"] == arm]


def gains(results: Results) -> list[dict[str, Any]]:
    """Return, for each triple and seed, what the filter gains in HM over self-training, and what it began from."""
    cells = []
    for split in results.splits:
        for seed in results.seeds:

            def get(arm: str, name: str, number: int | None = None, split: str = split, seed: int = seed) -> float:
                return results.value(split, seed, arm, name, number)

            first, last = 1, results.rounds
            cells.append({
                "split": split, "seed": seed,
                "p0": get("self_training", "hidden_zero_label_accuracy", 1),
                "lift": get("strict", "hidden_precision", first) - get("strict", "hidden_zero_label_accuracy", first),
                "last_lift": get("strict", "hidden_precision", last)
                - get("strict", "hidden_zero_label_accuracy", last),
                "gain": get("strict", "hm") - get("self_training", "hm"),
            })  # fmt: skip
    return cells
