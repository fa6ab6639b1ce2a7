"""How should the workers agree? A search over strategy, period, learning rate and worker count on one budget of bytes.

Every trial is a gang of two or four workers, and may send 20 MB over its links in all, some 260 all-reduces of two
workers: who agrees at every step has used that up early. TPE proposes, ASHA stops what falls behind, on a local Ray;
a worker holds half a CPU here. Run with `python examples/distributed.py`; a few minutes on two CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform import Budget, Resources, SearchSpec, choice, loguniform, run, when
from tune_platform.trainables.classification import ClassificationTrainable

LOCAL = ["local_sgd", "lsgd", "easgd", "diloco"]  # those that meet every `period` inner steps


def resources(config: Mapping[str, Any]) -> Resources:
    """Return what a trial holds: as many workers as its config says."""
    return Resources(cpu=0.5, workers=int(config["workers"]))


SPEC = SearchSpec(
    name="distributed",
    description="Which way to agree reads digits best when a trial may send 20 MB?",
    trainable=ClassificationTrainable,
    metric="val_accuracy",
    mode="max",
    param_space={
        "task": "digits",
        "model": "mlp",
        "width": 128,
        "batch_size": 16,
        "updates": 1200,
        "report_every": 50,
        "workers": choice([2, 4]),
        "lr": loguniform(5e-3, 0.3),
        "momentum": 0.9,
        "strategy": {
            "name": choice(["all_reduce", *LOCAL]),
            "period": when(choice([4, 16, 64]), {"strategy/name": LOCAL}),
        },
    },
    searcher="tpe",
    seed=11,
    scheduler={"name": "asha", "resource": "updates", "min": 100, "max": 1200, "eta": 3},
    stop={"bytes_sent": 20e6},
    budget=Budget(trials=20),
    max_concurrent=2,
    resources=resources,
)

if __name__ == "__main__":
    results = run(SPEC)
    rows = sorted((trial for trial in results.trials() if trial.best is not None), key=lambda t: -(t.best or 0.0))
    for trial in rows[:5]:
        at = trial.metrics
        print(
            f"trial {trial.number:2d}  validation {trial.best:.4f}  test {at['test_accuracy']:.4f}  "
            f"{at['bytes_sent'] / 1e6:5.1f} MB  {trial.config['workers']} workers  {trial.config['strategy']}"
        )
