"""The main example through the Python API: the same search as `digits.yaml`.

Run with `python examples/digits.py`; one to two minutes on two CPUs.
"""

from __future__ import annotations

from tune_platform import Budget, Resources, SearchSpec, choice, loguniform, randint, run, uniform, when
from tune_platform.trainables.digits import DigitsTrainable

SPEC = SearchSpec(
    name="digits",
    description="Which network reads 8 x 8 digits best, chosen by validation accuracy?",
    trainable=DigitsTrainable,
    metric="val_accuracy",
    mode="max",
    param_space={
        "model": choice(["mlp", "cnn"]),
        "width": when(choice([64, 128, 256]), {"model": "mlp"}),
        "layers": when(randint(1, 4), {"model": "mlp"}),
        "channels": when(choice([16, 32]), {"model": "cnn"}),
        "activation": choice(["relu", "gelu", "tanh"]),
        "dropout": uniform(0.0, 0.5),
        "optimizer": choice(["sgd", "adamw"]),
        "lr": loguniform(5e-4, 0.1),
        "momentum": when(uniform(0.5, 0.99), {"optimizer": "sgd"}),
        "weight_decay": loguniform(1e-6, 1e-2),
        "batch_size": choice([32, 64, 128]),
        "shift": 1,
        "epochs": 27,
    },
    seed=7,
    scheduler={"name": "asha", "resource": "epoch", "min": 1, "max": 27, "eta": 3},
    budget=Budget(trials=64),
    max_concurrent=2,
    resources=Resources(cpu=1),
)

if __name__ == "__main__":
    results = run(SPEC)
    best = results.best()
    print(f"trial {best.number}, epoch {best.metrics['epoch']}: {best.config}")
    print(f"test accuracy {best.metrics['test_accuracy']:.4f}, chosen by {best.best:.4f} on validation")
