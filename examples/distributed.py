"""How should the workers agree? A search over strategy, period, learning rate and worker count on one budget of bytes.

Every trial is a gang of two or four workers, and may send 20 MB over its links in all, some 260 all-reduces of two
workers: who agrees at every step has used that up early. TPE proposes, ASHA stops what falls behind, on a local Ray;
a worker holds half a CPU here. Run with `python examples/distributed.py`; a few minutes on two CPUs. Smaller or longer:

    python examples/distributed.py --trials 4 --updates 200 --width 32 --time 10min
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tune_platform import Budget, Resources, SearchSpec, choice, loguniform, run, when
from tune_platform.trainables.classification import ClassificationTrainable

LOCAL = ["local_sgd", "lsgd", "easgd", "diloco"]  # those that meet every `period` inner steps


def resources(config: Mapping[str, Any]) -> Resources:
    """Return what a trial holds: as many workers as its config says."""
    return Resources(cpu=0.5, workers=int(config["workers"]))


def search(trials: int = 20, updates: int = 1200, width: int = 128, time: str | None = None) -> SearchSpec:
    """Return the search: so many trials of so many inner steps, with hidden layers of `width`, in at most `time`."""
    return SearchSpec(
        name="distributed",
        description="Which way to agree reads digits best when a trial may send 20 MB?",
        trainable=ClassificationTrainable,
        metric="val_accuracy",
        mode="max",
        param_space={
            "task": "digits",
            "model": "mlp",
            "width": width,
            "batch_size": 16,
            "updates": updates,
            "report_every": max(1, updates // 24),
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
        scheduler={"name": "asha", "resource": "updates", "min": max(1, updates // 12), "max": updates, "eta": 3},
        stop={"bytes_sent": 20e6},
        budget=Budget(trials=trials, time=time),
        max_concurrent=2,
        resources=resources,
    )


SPEC = search()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--updates", type=int, default=1200, help="inner steps of a whole training")
    parser.add_argument("--width", type=int, default=128, help="units of the hidden layer")
    parser.add_argument("--time", help="the search ends after so long, such as 10min")
    given = parser.parse_args()
    results = run(search(given.trials, given.updates, given.width, given.time))
    rows = sorted((trial for trial in results.trials() if trial.best is not None), key=lambda t: -(t.best or 0.0))
    for trial in rows[:5]:
        at = trial.metrics
        test = f"test {at['test_accuracy']:.4f}" if "test_accuracy" in at else "stopped early"
        print(
            f"trial {trial.number:2d}  validation {trial.best:.4f}  {test:13s}  "
            f"{at['bytes_sent'] / 1e6:5.1f} MB  {trial.config['workers']} workers  {trial.config['strategy']}"
        )
