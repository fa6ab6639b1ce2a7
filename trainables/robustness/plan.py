"""What the study runs: the methods by the paper's names, and the trainings in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: The methods of the paper's tables, in its order.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "Natural": {"method": "natural"},
    "GR": {"method": "gr"},
    "LLR": {"method": "llr"},
    "RST 0.5": {"method": "rst", "rst_lambda": 0.5},
    "RST 1": {"method": "rst", "rst_lambda": 1.0},
    "RST 2": {"method": "rst", "rst_lambda": 2.0},
    "AT": {"method": "at"},
    "TRADES 1": {"method": "trades", "beta": 1.0},
    "TRADES 3": {"method": "trades", "beta": 3.0},
    "TRADES 6": {"method": "trades", "beta": 6.0},
}
#: What the authors' released code does in their place.
RELEASED: Mapping[str, Mapping[str, Any]] = {
    "GR released": {"method": "gr", "as_released": True},
    "LLR released": {"method": "llr", "as_released": True},
}
#: The methods of the paper's table on dropout.
DROPPED = ("Natural", "AT", "RST 2", "TRADES 3", "TRADES 6")
#: Those of the table on dropout where robust training overfits, and its rates.
OVERFIT, OVERFIT_RATES = ("AT",), (0.0, 0.5)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run. `base` is common to all trainings, `small` to those of the dropout table (few images).

    `wide` is common to those of the table `overfit`: few images, a wide network and many epochs, so that robust
    training fits its images and misses others, as it does in the paper.
    """

    seeds: int
    base: Mapping[str, Any]
    small: Mapping[str, Any]
    wide: Mapping[str, Any]
    rates: tuple[float, ...] = (0.0, 0.2, 0.5)
    device: str = "cpu"
    variants: tuple[str, ...] = tuple(VARIANTS)
    dropped: tuple[str, ...] = DROPPED
    overfit: tuple[str, ...] = OVERFIT
    #: Seeds of the dropout table, where fewer do: it has the most trainings and its effects are large.
    dropped_seeds: int = 5


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: `table` (methods, released, dropout, overfit), `method` as in the paper, dropout rate and seed."""

    table: str
    method: str
    dropout: float
    seed: int
    config: Mapping[str, Any] = field(hash=False)

    def inputs(self, device: str) -> dict[str, Any]:
        """Return all that its result depends on: by these it is kept."""
        named = {"table": self.table, "method": self.method, "dropout": self.dropout, "seed": self.seed}
        return {**named, "device": device, "config": dict(self.config)}


def plan_for(quick: bool, seeds: int, **changes: Any) -> Plan:
    """Return the study on digits as it stands in the docs, or the one that shows in a minute that everything runs."""
    shared = {
        "dataset": "digits", "model": "mlp", "width": 16, "lr": 3e-3, "attack_steps": 7, "schedule": "cosine",
        "analysis_images": 600, **changes,
    }  # fmt: skip
    device = str(shared.pop("device", "cpu"))
    if quick:
        base = {"eps": 0.2, "epochs": 2, "batch_size": 128, **shared, "width": 4, "targeted_steps": 5}
        small = {**base, "eps": 0.1, "train_size": 200, **changes}
        small.pop("device", None)
        few = ("Natural", "GR", "AT", "TRADES 1", "TRADES 3", "TRADES 6")
        return Plan(
            seeds=seeds,
            base=base,
            small=small,
            wide={**small, "width": 8},
            rates=(0.0, 0.5),
            device=device,
            variants=few,
            dropped=("AT", "TRADES 3"),
            overfit=("AT",),
        )
    base = {"eps": 0.2, "epochs": 12, "batch_size": 64, **shared}
    small = {**base, "eps": 0.1, "epochs": 25, "batch_size": 32, "train_size": 300, **changes}
    small.pop("device", None)
    wide = {**small, "width": 64, "epochs": 80, **changes}
    wide.pop("device", None)
    return Plan(seeds=seeds, base=base, small=small, wide=wide, device=device)


def jobs(plan: Plan) -> Iterator[Job]:
    """Yield the trainings, seed by seed, so that a study that is cut short has whole seeds."""
    for seed in range(plan.seeds):
        for table, variants in (("methods", VARIANTS), ("released", RELEASED)):
            for method, changes in variants.items():
                if method.removesuffix(" released") in plan.variants:
                    config = {**plan.base, **changes, "split_seed": seed}
                    yield Job(table=table, method=method, dropout=0.0, seed=seed, config=config)
        for table, shared, methods, rates in (
            ("overfit", plan.wide, plan.overfit, OVERFIT_RATES),
            ("dropout", plan.small, plan.dropped if seed < plan.dropped_seeds else (), plan.rates),
        ):
            for method in methods:
                for rate in rates:
                    config = {**shared, **VARIANTS[method], "dropout": rate, "split_seed": seed}
                    yield Job(table=table, method=method, dropout=rate, seed=seed, config=config)
