"""Train the tables of learning curves beside this file: real models, measured seconds.

    python -m benchmarks.curves.make mlp_digits --configs 600 --minutes 4

Goes on where it was stopped: what is trained is kept in `--work` and written as a table when all is there. Each
config trains in one thread; its seconds are those of its own steps, without validation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tune_platform.curves.table import CurveTable
from tune_platform.space import Space, choice, lograndint, loguniform, uniform

HERE = Path(__file__).parent

#: What a training yields after each step: the values of its metrics, and the seconds that the step took.
Steps = Iterator[tuple[dict[str, float], float]]


class Recipe(NamedTuple):
    """A table to be: what is searched, how it is judged, how long it trains, and the training."""

    space: Mapping[str, Any]
    metric: str
    mode: str
    steps: int
    train: Callable[[Mapping[str, Any], int], Steps]


def network(name: str) -> Callable[[Mapping[str, Any], int], Steps]:
    """Return the training of an MLP or a CNN on scikit-learn's digits (8 x 8 pixels): a step is an epoch."""

    def train(config: Mapping[str, Any], seed: int) -> Steps:
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        x, y = load_digits(return_X_y=True)
        x_train, x_val, y_train, y_val = train_test_split(x / 16.0, y, test_size=0.4, random_state=0, stratify=y)
        inputs, labels = torch.tensor(x_train, dtype=torch.float32), torch.tensor(y_train)
        held, truth = torch.tensor(x_val, dtype=torch.float32), torch.tensor(y_val)
        width, drop = config["width"], nn.Dropout(config["dropout"])
        if name == "mlp":
            inner = [layer for _ in range(config["layers"] - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
            net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), *inner, drop, nn.Linear(width, 10))
        else:
            net = nn.Sequential(
                nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Flatten(), drop, nn.Linear(width * 16, 10),
            )  # fmt: skip
        decay = config["weight_decay"]
        optimizer: torch.optim.Optimizer
        if config["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(net.parameters(), config["lr"], momentum=0.9, weight_decay=decay)
        else:
            optimizer = torch.optim.Adam(net.parameters(), config["lr"], weight_decay=decay)
        size = config["batch_size"]
        while True:
            start = time.perf_counter()
            net.train()
            for batch in torch.randperm(len(inputs)).split(size):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            seconds = time.perf_counter() - start
            net.eval()
            with torch.no_grad():
                out = net(held)
            loss = float(nn.functional.cross_entropy(out, truth))
            # A training that diverged is as bad as a guess; a table has finite values.
            loss = min(loss, 10.0) if np.isfinite(loss) else 10.0
            yield {"loss": loss, "accuracy": float((out.argmax(1) == truth).float().mean())}, seconds

    return train


def boosting(data: str) -> Callable[[Mapping[str, Any], int], Steps]:
    """Return the training of scikit-learn's gradient boosting: a step is five more trees."""

    def train(config: Mapping[str, Any], seed: int) -> Steps:
        from sklearn.datasets import load_breast_cancer, load_diabetes
        from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
        from sklearn.metrics import log_loss
        from sklearn.model_selection import train_test_split

        classes = data == "breast_cancer"
        x, y = (load_breast_cancer if classes else load_diabetes)(return_X_y=True)
        x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.4, random_state=0)
        build = GradientBoostingClassifier if classes else GradientBoostingRegressor
        model = build(
            learning_rate=config["lr"], max_depth=config["depth"], subsample=config["subsample"],
            max_features=config["features"], min_samples_leaf=config["leaf"], warm_start=True, random_state=seed,
            n_estimators=5,
        )  # fmt: skip
        while True:
            start = time.perf_counter()
            model.fit(x_train, y_train)
            seconds = time.perf_counter() - start
            if classes:
                found = min(log_loss(y_val, model.predict_proba(x_val)), 10.0)
            else:
                found = float(np.sqrt(np.mean((model.predict(x_val) - y_val) ** 2)))
            yield {"loss": float(found)}, seconds
            model.set_params(n_estimators=model.n_estimators + 5)

    return train


_NET = {
    "lr": loguniform(1e-4, 1.0),
    "weight_decay": loguniform(1e-6, 1e-1),
    "dropout": uniform(0.0, 0.8),
    "batch_size": choice([32, 64, 128, 256]),
    "optimizer": choice(["adam", "sgd"]),
}
_TREES = {
    "lr": loguniform(0.005, 1.0),
    "depth": choice([1, 2, 3, 4, 5, 6]),
    "subsample": uniform(0.3, 1.0),
    "features": uniform(0.1, 1.0),
    "leaf": lograndint(1, 33),
}
RECIPES = {
    "mlp_digits": Recipe(
        {**_NET, "width": lograndint(8, 129), "layers": choice([1, 2, 3])}, "loss", "min", 27, network("mlp")
    ),
    "cnn_digits": Recipe({**_NET, "width": lograndint(2, 17)}, "loss", "min", 9, network("cnn")),
    "boosting_breast_cancer": Recipe(_TREES, "loss", "min", 27, boosting("breast_cancer")),
    "boosting_diabetes": Recipe(_TREES, "loss", "min", 27, boosting("diabetes")),
}


def make(name: str, configs: int, minutes: float, work: Path) -> bool:
    """Train what is missing of a table for so many minutes; write it and return True when all is there."""
    recipe = RECIPES[name]
    space = Space(recipe.space)
    work.mkdir(parents=True, exist_ok=True)
    kept = work / f"{name}.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    end = time.monotonic() + 60 * minutes
    with kept.open("a") as file:
        while len(done) < configs and time.monotonic() < end:
            number = len(done)
            config = space.sample(np.random.default_rng([number, 15]))
            steps = [step for step, _ in zip(recipe.train(config, number), range(recipe.steps), strict=False)]
            done.append({"config": config, "values": [v for v, _ in steps], "seconds": [s for _, s in steps]})
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    print(f"{name}: {len(done)} of {configs} configs")
    if len(done) < configs:
        return False
    metrics = list(done[0]["values"][0])
    CurveTable(
        space=space,
        metric=recipe.metric,
        mode=recipe.mode,
        configs=[each["config"] for each in done],
        values={m: np.array([[v[m] for v in each["values"]] for each in done], dtype=np.float32) for m in metrics},
        seconds=np.array([each["seconds"] for each in done], dtype=np.float32),
        resource="epoch",
        name=name,
    ).save(HERE / f"{name}.npz")
    return True


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="tables; all without any")
    parser.add_argument("--configs", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=4.0, help="of training for each table, at most")
    parser.add_argument("--work", type=Path, default=Path("curves_work"))
    options = parser.parse_args()
    for name in options.names or RECIPES:
        make(name, options.configs, options.minutes, options.work)


if __name__ == "__main__":
    main()
