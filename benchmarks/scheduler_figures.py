"""Draws the figures of docs/schedulers.md: what each scheduler did with one toy search, by the platform's own plots.

    python -m benchmarks.scheduler_figures          # into docs/figures/schedulers, under a minute

The toy: each step gains by how near the rate is to the best one, which moves. It runs inline with a fixed seed, so that
the same figures come out again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tune_platform import SearchSpec, Trainable, run, uniform
from tune_platform.plots import View, find
from tune_platform.plots.report import write_figure

#: Of each scheduler: the figure, the number of trials and its options.
FIGURES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "asha": ("rungs", 40, {"max": 27}),
    "async_hyperband": ("rungs", 40, {"max": 27, "brackets": 3}),
    "successive_halving": ("rungs", 27, {"n": 27, "max": 27}),
    "hyperband": ("rungs", 49, {"max": 27}),
    "pasha": ("rungs", 40, {"max": 81}),
    "median": ("rungs", 20, {"interval": 3, "max": 27}),
    "mo_asha": ("rungs", 40, {"max": 27}),
    "freeze_thaw": ("rungs", 20, {"max": 27, "interval": 1}),
    "pbt": ("lineage", 8, {"interval": 4, "max": 24}),
    "pb2": ("lineage", 8, {"interval": 4, "max": 24}),
    "mf_pbt": ("lineage", 8, {"interval": 2, "frequencies": [1, 4], "max": 24}),
}


class Toy(Trainable):
    """Gains at each step by how near the rate is to the best one, which moves from 0.2 to 0.8 in 24 steps."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin far from the end."""
        self.rate, self.left, self.now = config["rate"], 1.0, 0

    def step(self) -> dict[str, float]:
        """Come nearer."""
        best = 0.2 + 0.6 * min(self.now / 24, 1.0)
        self.now += 1
        self.left *= 1 - 0.25 * max(1 - 2 * abs(self.rate - best), 0.02)
        return {"loss": self.left + 0.1 * abs(self.rate - 0.5), "size": 1 - self.rate}

    def get_state(self) -> Any:
        """Return all that training has changed."""
        return [self.left, self.now]

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self.left, self.now = state


def draw(name: str, path: Path) -> str:
    """Search under a scheduler and draw its figure; return what the figure says in words."""
    kind, trials, options = FIGURES[name]
    with tempfile.TemporaryDirectory() as folder:
        spec = SearchSpec(
            name=name, trainable=Toy, param_space={"rate": uniform(0, 1)}, searcher="random",
            metric=["loss", "size"] if name == "mo_asha" else "loss", mode="min",
            scheduler={"name": name, **options}, num_samples=trials, seed=3, storage=folder,
            backend={"name": "inline", "num_cpus": 8}, progress="off",
        )  # fmt: skip
        view = View.of(run(spec))
        figure = find(kind).draw(view)
        figure.update_layout(height=380)
        write_figure(figure, path)
        return find(kind).summary(view)


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("docs/figures/schedulers"))
    parser.add_argument("--only", choices=FIGURES, nargs="*", help="these alone")
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    for name in given.only or FIGURES:
        print(f"{name}: {draw(name, given.to / f'{name}.png')}", flush=True)


if __name__ == "__main__":
    main()
