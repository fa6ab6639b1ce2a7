"""PBT against random search at equal steps, on a small real network with noisy steps.

    python -m benchmarks.studies.pbt                # 10 seeds: minutes
    python -m benchmarks.studies.pbt --seeds 3

An MLP (64-32-10) learns scikit-learn's digits by SGD on batches of 4, and one label in five is wrong: at a rate that
learns soon, the noise of the batches keeps the loss high at the end; at one that does not, it has not come far by then.
It was meant to be the regime of PBT's claim (Jaderberg et al. 2017, section 4), where a schedule beats any constant;
over 10 seeds no difference shows. Both have 16 members and 40 steps for each, and differ in the scheduler only.
Selected is by the loss on validation data; told is the loss of the selected one on test data.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
from scipy.stats import t

from tune_platform import PBT, Budget, SearchSpec, Trainable, loguniform, run

MEMBERS, STEPS, UPDATES, BATCH = 16, 40, 60, 4


def data() -> list[tuple[Any, Any]]:
    """Return (inputs, labels) for training, with wrong labels, for validation and for test."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order] / 16.0, y[order].copy()
    wrong = np.random.default_rng(1).random(900) < 0.2
    y[:900][wrong] = np.random.default_rng(2).integers(10, size=int(wrong.sum()))
    return [(x[:900], y[:900]), (x[900:1350], y[900:1350]), (x[1350:], y[1350:])]


class Digits(Trainable):
    """The MLP; a step is so many updates of SGD. `test` is reported and never looked at by a scheduler."""

    def setup(self, config: dict[str, Any]) -> None:
        """Draw the weights and the batches by the config's seed and the lr, so that members differ."""
        self.lr, self.parts = config["lr"], data()
        self.rng = np.random.default_rng([config["seed"], int(1e6 * config["lr"])])
        self.w = [self.rng.normal(0, (2 / n) ** 0.5, (n, m)) for n, m in ((64, 32), (32, 10))]

    def step(self) -> dict[str, float]:
        """Update, and evaluate on what was not trained on."""
        (x, y), valid, test = self.parts
        for _ in range(UPDATES):
            rows = self.rng.integers(len(x), size=BATCH)
            hidden, p = self.forward(x[rows])
            p[np.arange(BATCH), y[rows]] -= 1
            back = (p @ self.w[1].T) * (hidden > 0)
            self.w[1] -= self.lr / BATCH * hidden.T @ p
            self.w[0] -= self.lr / BATCH * x[rows].T @ back
        return {"loss": self.loss(*valid), "test": self.loss(*test)}

    def forward(self, x: Any) -> tuple[Any, Any]:
        """Return the hidden layer and the probabilities."""
        hidden = np.maximum(x @ self.w[0], 0)
        z = hidden @ self.w[1]
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return hidden, p / p.sum(axis=1, keepdims=True)

    def loss(self, x: Any, y: Any) -> float:
        """Return the mean cross entropy, at most 5 (of one that has diverged)."""
        p = self.forward(x)[1][np.arange(len(y)), y]
        return min(float(-np.log(np.maximum(np.nan_to_num(p), 1e-12)).mean()), 5.0)

    def get_state(self) -> Any:
        """Return the weights."""
        return self.w

    def set_state(self, state: Any) -> None:
        """Take weights over."""
        self.w = [part.copy() for part in state]


def search(seed: int, scheduler: Any) -> float:
    """Return the test loss of the member with the lowest validation loss at any step."""
    with tempfile.TemporaryDirectory(prefix="pbt-study-") as folder:
        spec = SearchSpec(
            name="study", trainable=Digits, param_space={"lr": loguniform(1e-3, 1.0), "seed": seed}, metric="loss",
            mode="min", scheduler=scheduler, budget=Budget(trials=MEMBERS), stop={"step": STEPS},
            backend={"name": "inline", "num_cpus": MEMBERS}, storage=folder, seed=seed, progress="off",
        )  # fmt: skip
        results = run(spec)
        valid, test = (
            [value for _, curve in sorted(results.curves(name).items()) for _, value in curve]
            for name in ("loss", "test")
        )
    assert len(valid) == len(test) == MEMBERS * STEPS, f"{len(valid)} steps"
    return min(zip(valid, test, strict=True))[1]


def main() -> None:
    """Search with both for each seed, and print the means and the interval of the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    random = np.array([search(seed, "fifo") for seed in seeds])
    population = np.array([search(seed, PBT(interval=2, synchronous=True, mutations={"lr": None})) for seed in seeds])
    gains = random - population
    half = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    print(f"test loss, random search {random.mean():.4f}, PBT {population.mean():.4f} (means of {len(gains)} seeds)")
    print(f"PBT is lower by {gains.mean():.4f}, 95 % interval {gains.mean() - half:.4f} to {gains.mean() + half:.4f}")
    print(f"PBT is lower in {int((gains > 0).sum())} of {len(gains)}")


if __name__ == "__main__":
    main()
