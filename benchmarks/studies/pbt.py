"""PBT against random search at equal steps, on a small real network whose best learning rate falls over time.

    python -m benchmarks.studies.pbt                # 10 seeds: minutes
    python -m benchmarks.studies.pbt --seeds 3

A denoising autoencoder (64-16-64, tanh) learns scikit-learn's digits by SGD on batches of 4. It cannot fit what it is
given, so the noise of the batches holds the loss up in proportion to the rate for ever: a high rate comes far soon and
ends high, a low one does not come far. That is the regime of PBT's claim (Jaderberg et al. 2017, section 4), where a
schedule beats any constant; `ceiling` measures by how much, with a grid of rates that are constant or fall to zero.
Both searches have the same 16 members, which differ in the rate alone, and the same steps; they differ in the scheduler
only. Selected is by the loss on validation data at any step; told is the loss of the selected weights on test data.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import t

from tune_platform import PBT, Budget, SearchSpec, Trainable, loguniform, run

MEMBERS, STEPS, UPDATES, BATCH, HIDDEN, NOISE = 16, 20, 200, 4, 16, 0.3
#: PBT's generations have two steps each; a rate that is taken over is halved or doubled, or drawn anew.
INTERVAL, FACTORS = 2, (0.5, 2.0)
#: The loss of one that has diverged.
WORST = 50.0


@cache
def data() -> tuple[Any, Any, Any]:
    """Return images, (n, 64) from 0 to 1, for training, for validation and for test."""
    from sklearn.datasets import load_digits

    x, _ = load_digits(return_X_y=True)
    x = (x[np.random.default_rng(0).permutation(len(x))] / 16.0).astype(np.float32)
    return x[:900], x[900:1350], x[1350:]


class Autoencoder(Trainable):
    """Removes noise from digits; a step is so many updates of SGD. `test` is never looked at by a scheduler."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the weights of the seed, which all members share, and with batches of the member's own."""
        self.lr, self.falls, self.updates = np.float32(config["lr"]), config.get("falls", False), 0
        self.rng = np.random.default_rng([config["seed"], int(1e6 * config["lr"])])
        draw = np.random.default_rng(config["seed"])
        shapes = ((64, HIDDEN), (HIDDEN, 64))
        self.w = [draw.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for shape in shapes]
        self.w.append(data()[0].mean(axis=0))

    def step(self) -> dict[str, float]:
        """Update, and evaluate on what was not trained on."""
        train, valid, test = data()
        (encoder, decoder, bias), rng = self.w, self.rng
        images = train[rng.integers(len(train), size=(UPDATES, BATCH))]
        noisy = images + np.float32(NOISE) * rng.standard_normal(images.shape, dtype=np.float32)
        with np.errstate(all="ignore"):  # a rate that is too high
            for image, x in zip(images, noisy, strict=True):
                rate = self.lr / BATCH * np.float32(1 - self.updates / (STEPS * UPDATES) if self.falls else 1)
                code = np.tanh(x @ encoder)
                error = code @ decoder + bias - image
                back = (error @ decoder.T) * (1 - code * code)
                decoder -= rate * (code.T @ error)
                encoder -= rate * (x.T @ back)
                bias -= rate * error.sum(axis=0)
                self.updates += 1
            return {"loss": self.loss(valid), "test": self.loss(test)}

    def loss(self, x: Any) -> float:
        """Return the mean squared error of an image that has no noise."""
        encoder, decoder, bias = self.w
        error = np.tanh(x @ encoder) @ decoder + bias - x
        return min(float(np.nan_to_num((error**2).sum(axis=1).mean(), nan=WORST, posinf=WORST)), WORST)

    def get_state(self) -> Any:
        """Return the weights."""
        return self.w

    def set_state(self, state: Any) -> None:
        """Take weights over."""
        self.w = [part.copy() for part in state]


def search(seed: int, scheduler: Any) -> float:
    """Return the test loss of the weights with the lowest validation loss of any member at any step."""
    with tempfile.TemporaryDirectory(prefix="pbt-study-") as folder:
        spec = SearchSpec(
            name="study", trainable=Autoencoder, param_space={"lr": loguniform(1e-3, 1.0), "seed": seed}, metric="loss",
            mode="min", searcher="random", scheduler=scheduler, budget=Budget(trials=MEMBERS), stop={"step": STEPS},
            backend={"name": "inline", "num_cpus": MEMBERS}, storage=folder, seed=seed, progress="off",
        )  # fmt: skip
        results = run(spec)
        valid, test = (
            [value for _, curve in sorted(results.curves(name).items()) for _, value in curve]
            for name in ("loss", "test")
        )
    assert len(valid) == len(test) == MEMBERS * STEPS, f"{len(valid)} steps"
    return min(zip(valid, test, strict=True))[1]


def ceiling(seed: int, *, falls: bool) -> float:
    """Return the same of the best of 12 rates, constant or falling to zero: what a schedule can win at all."""
    found = []
    for lr in np.geomspace(0.01, 0.8, 12):
        member = Autoencoder()
        member.setup({"lr": float(lr), "seed": seed, "falls": falls})
        found += [member.step() for _ in range(STEPS)]
    return min((report["loss"], report["test"]) for report in found)[1]


def population() -> PBT:
    """Return the scheduler that is compared."""
    return PBT(interval=INTERVAL, synchronous=True, mutations={"lr": None}, factors=FACTORS)


def main() -> None:
    """Search with both for each seed, and print the means and the interval of the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    random = np.array([search(seed, "fifo") for seed in seeds])
    ours = np.array([search(seed, population()) for seed in seeds])
    gains = random - ours
    half = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    print(f"test loss, random search {random.mean():.4f}, PBT {ours.mean():.4f} (means of {len(gains)} seeds)")
    print(f"PBT is lower by {gains.mean():.4f}, 95 % interval {gains.mean() - half:.4f} to {gains.mean() + half:.4f}")
    print(f"PBT is lower in {int((gains > 0).sum())} of {len(gains)}")
    constant, falling = (np.mean([ceiling(seed, falls=falls) for seed in seeds]) for falls in (False, True))
    print(f"the best of 12 rates: constant {constant:.4f}, falling to zero {falling:.4f}")


if __name__ == "__main__":
    main()
