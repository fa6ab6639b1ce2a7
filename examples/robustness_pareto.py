"""Accurate or robust? A search for the Pareto front of clean and adversarial accuracy, drawn as a picture.

Run with `python examples/robustness_pareto.py`; about three minutes on two CPUs. `--trials 6 --epochs 1` shows in a
minute that it works, `--backend inline` needs no Ray. The choice is made on validation images; the picture also shows
where each point of the front lies on test images, which took no part in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tune_platform import Budget, Resources, Results, SearchSpec, choice, loguniform, run, uniform, when
from tune_platform.trainables.robustness import RobustnessTrainable
from tune_platform.trainables.robustness.figures import pareto_figure

EPS = 0.2  # every pixel may be moved by a fifth of its range: hard enough that something must be given up
ATTACKED = {"method": ["llr", "at", "rst", "trades"]}  # the methods that train within a ball


def spec(trials: int, epochs: int, backend: str, name: str | None = None) -> SearchSpec:
    """The search: the method, its weight and radius, dropout and learning rate, for two objectives."""
    return SearchSpec(
        name=name or "robustness-pareto",
        description="Clean or adversarial accuracy: what can be had together?",
        trainable=RobustnessTrainable,
        metric=["val_accuracy", "val_adv_accuracy"],
        mode="max",
        param_space={
            "method": choice(["natural", "gr", "llr", "at", "rst", "trades"]),
            "beta": when(loguniform(0.5, 12.0), {"method": "trades"}),
            "rst_lambda": when(loguniform(0.25, 4.0), {"method": "rst"}),
            "gr_lambda": when(loguniform(0.1, 10.0), {"method": "gr"}),
            "llr_lambda": when(loguniform(0.5, 8.0), {"method": "llr"}),
            "llr_mu": when(loguniform(0.5, 6.0), {"method": "llr"}),
            "train_eps": when(uniform(0.02, 0.25), ATTACKED),
            "dropout": choice([0.0, 0.1, 0.2, 0.5]),
            "lr": loguniform(5e-4, 1e-2),
            "model": "mlp",
            "width": 16,
            "batch_size": 64,
            "attack_steps": 7,
            "schedule": "cosine",
            "eps": EPS,
            "epochs": epochs,
            "analysis_images": 300,
        },
        searcher="tpe",
        seed=11,
        budget=Budget(trials=trials),
        max_concurrent=2,
        resources=Resources(cpu=1),
        backend=backend,
    )


def settings(config: dict[str, Any]) -> str:
    """What a person wants to know of a trial, in a few words."""
    weight = {"trades": "beta", "rst": "rst_lambda", "gr": "gr_lambda", "llr": "llr_lambda"}.get(config["method"])
    names = {"trades": "TRADES", "at": "AT", "rst": "RST", "gr": "GR", "llr": "LLR", "natural": "Natural"}
    parts = [names[config["method"]]]
    if weight:
        parts.append(f"{'β' if weight == 'beta' else 'λ'} {config[weight]:.2g}")
    if "train_eps" in config:
        parts.append(f"radius {config['train_eps']:.2f}")
    return ", ".join([*parts, f"dropout {config['dropout']:g}"])


def rows(results: Results) -> list[dict[str, Any]]:
    """One row for each trial that has come to its end."""
    return [
        {
            "number": trial.number,
            "method": trial.config["method"],
            "label": settings(dict(trial.config)),
            "val": (trial.metrics["val_accuracy"], trial.metrics["val_adv_accuracy"]),
            "test": (trial.metrics["test_accuracy"], trial.metrics["test_adv_accuracy"]),
        }
        for trial in results.trials(status="COMPLETED")
    ]


def main() -> None:
    """Search, draw, and print the front."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--backend", choices=["ray", "inline"], default="ray")
    parser.add_argument("--name", help="of the experiment, if this is not its first run here")
    parser.add_argument("--out", type=Path, default=Path("pareto.png"))
    arguments = parser.parse_args()
    results = run(spec(arguments.trials, arguments.epochs, arguments.backend, arguments.name))
    trials = rows(results)
    front = [trial.number for trial in results.pareto() if trial.number in {row["number"] for row in trials}]
    pareto_figure(trials, front, EPS).savefig(arguments.out, dpi=110)
    print(f"{'trial':>5}  {'validation':>15}  {'test':>15}  training")
    for row in sorted((row for row in trials if row["number"] in front), key=lambda row: row["val"]):
        val, test = (" / ".join(f"{100 * value:5.1f}" for value in row[part]) + " %" for part in ("val", "test"))
        print(f"{row['number']:>5}  {val:>15}  {test:>15}  {row['label']}")
    print(f"clean / adversarial accuracy of the {len(front)} trainings that no other beats; drawn in {arguments.out}")


if __name__ == "__main__":
    main()
