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


def linear(config: Mapping[str, Any], seed: int) -> Steps:
    """Train logistic regression on the digits by stochastic gradients: a step is an epoch."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(x / 16.0, y, test_size=0.4, random_state=0, stratify=y)
    model = SGDClassifier(
        loss="log_loss", alpha=config["alpha"], learning_rate=config["schedule"], eta0=config["lr"],
        penalty="elasticnet", l1_ratio=config["l1_ratio"], average=config["average"], power_t=config["power"],
        random_state=seed,
    )  # fmt: skip
    while True:
        start = time.perf_counter()
        model.partial_fit(x_train, y_train, classes=np.arange(10))
        seconds = time.perf_counter() - start
        found = log_loss(y_val, model.predict_proba(x_val), labels=np.arange(10))
        yield {"loss": float(min(found, 10.0)), "accuracy": float(model.score(x_val, y_val))}, seconds


def regression(config: Mapping[str, Any], seed: int) -> Steps:
    """Train scikit-learn's MLP on Friedman's first function with noise: a step is an epoch of 600 examples."""
    from sklearn.datasets import make_friedman1
    from sklearn.neural_network import MLPRegressor

    x, y = make_friedman1(1200, noise=1.0, random_state=0)
    y = (y - y.mean()) / y.std()
    model = MLPRegressor(
        hidden_layer_sizes=(config["width"],) * config["layers"], activation=config["activation"], solver="adam",
        alpha=config["alpha"], batch_size=config["batch_size"], learning_rate_init=config["lr"],
        beta_1=1 - config["forget"], random_state=seed,
    )  # fmt: skip
    while True:
        start = time.perf_counter()
        model.partial_fit(x[:600], y[:600])
        seconds = time.perf_counter() - start
        found = float(np.sqrt(np.mean((model.predict(x[600:]) - y[600:]) ** 2)))
        yield {"loss": min(found, 10.0) if np.isfinite(found) else 10.0}, seconds


def forest(config: Mapping[str, Any], seed: int) -> Steps:
    """Train extremely randomised trees on the breast cancer data: a step is two more trees."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.4, random_state=0)
    model = ExtraTreesClassifier(
        n_estimators=2, warm_start=True, max_depth=config["depth"], max_features=config["features"],
        min_samples_leaf=config["leaf"], bootstrap=True, max_samples=config["share"], criterion=config["criterion"],
        random_state=seed,
    )  # fmt: skip
    while True:
        start = time.perf_counter()
        model.fit(x_train, y_train)
        seconds = time.perf_counter() - start
        yield {"loss": float(min(log_loss(y_val, model.predict_proba(x_val)), 10.0))}, seconds
        model.n_estimators += 2


def reinforce(config: Mapping[str, Any], seed: int) -> Steps:
    """Train a policy on CartPole by REINFORCE with Adam: a step is an update of `episodes` episodes, 200 moves at most.

    The equations are those of Barto, Sutton and Anderson (1983) as Gymnasium's CartPole-v1 has them; all episodes of a
    step run side by side. `return` is the mean length of 32 episodes under the policy after the update.
    """
    rng = np.random.default_rng(seed)
    width, gamma = config["width"], 1 - config["discount"]
    shapes = {"a": (4, width), "b": (width,), "c": (width, 2)}
    weights = {k: rng.normal(size=shape) * (config["scale"] if k != "b" else 0.0) for k, shape in shapes.items()}
    first = {k: np.zeros_like(w) for k, w in weights.items()}
    second = {k: np.zeros_like(w) for k, w in weights.items()}

    def play(count: int) -> tuple[list[tuple[Any, Any, Any, Any]], Any]:
        state = rng.uniform(-0.05, 0.05, (count, 4))
        alive, length, moves = np.ones(count, dtype=bool), np.zeros(count), []
        for _ in range(200):
            hidden = np.tanh(state @ weights["a"] + weights["b"])
            logits = hidden @ weights["c"]
            right = 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -30, 30)))
            action = rng.random(count) < right
            moves.append((state, hidden, np.where(alive, action - right, 0.0), alive))
            length += alive
            place, speed, angle, turn = state.T
            sin, cos = np.sin(angle), np.cos(angle)
            push = (np.where(action, 10.0, -10.0) + 0.05 * turn**2 * sin) / 1.1
            bend = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
            pull = push - 0.05 * bend * cos / 1.1
            state = np.stack(
                [place + 0.02 * speed, speed + 0.02 * pull, angle + 0.02 * turn, turn + 0.02 * bend], axis=1
            )
            alive = alive & (np.abs(state[:, 0]) < 2.4) & (np.abs(state[:, 2]) < 0.2095)
            if not alive.any():
                break
        return moves, length

    step = 0
    while True:
        start = time.perf_counter()
        moves, _ = play(config["episodes"])
        step += 1
        returns, ahead = [], np.zeros(config["episodes"])
        for *_, alive in reversed(moves):
            ahead = alive + gamma * ahead * alive
            returns.append(ahead)
        gain = np.array(returns[::-1])
        there = np.array([alive for *_, alive in moves])
        if config["baseline"]:
            gain = gain - (gain * there).sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
        gain = np.where(there, gain, 0.0) / (np.abs(gain[there]).mean() + 1e-8)
        states, hidden = np.array([m[0] for m in moves]), np.array([m[1] for m in moves])
        force = np.array([m[2] for m in moves]) * gain / there.sum()
        away = weights["c"][:, 1] - weights["c"][:, 0]
        inner = force[..., None] * away * (1 - hidden**2)
        out = (force[..., None] * hidden).sum(axis=(0, 1))
        slopes = {
            "a": np.einsum("tns,tnh->sh", states, inner),
            "b": inner.sum(axis=(0, 1)),
            "c": np.stack([-out, out], 1),
        }
        for k, slope in slopes.items():
            first[k] = 0.9 * first[k] + 0.1 * slope
            second[k] = 0.999 * second[k] + 0.001 * slope**2
            scaled = (first[k] / (1 - 0.9**step)) / (np.sqrt(second[k] / (1 - 0.999**step)) + 1e-8)
            weights[k] = weights[k] + config["lr"] * scaled
        seconds = time.perf_counter() - start
        yield {"return": float(play(32)[1].mean())}, seconds


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
    "linear_digits": Recipe(
        {
            "lr": loguniform(1e-4, 10.0),
            "alpha": loguniform(1e-7, 1.0),
            "l1_ratio": uniform(0.0, 1.0),
            "schedule": choice(["constant", "invscaling", "adaptive", "optimal"]),
            "power": uniform(0.0, 0.8),
            "average": choice([False, True]),
        },
        "loss",
        "min",
        27,
        linear,
    ),
    "mlp_friedman": Recipe(
        {
            "lr": loguniform(1e-4, 1.0),
            "alpha": loguniform(1e-6, 10.0),
            "forget": loguniform(1e-3, 0.5),
            "batch_size": choice([16, 32, 64, 128, 256]),
            "width": lograndint(4, 129),
            "layers": choice([1, 2, 3]),
            "activation": choice(["relu", "tanh", "logistic"]),
        },
        "loss",
        "min",
        27,
        regression,
    ),
    "forest_breast_cancer": Recipe(
        {
            "depth": lograndint(1, 17),
            "features": uniform(0.05, 1.0),
            "leaf": lograndint(1, 33),
            "share": uniform(0.1, 1.0),
            "criterion": choice(["gini", "entropy", "log_loss"]),
        },
        "loss",
        "min",
        27,
        forest,
    ),
    "reinforce_cartpole": Recipe(
        {
            "lr": loguniform(1e-4, 1.0),
            "discount": loguniform(1e-3, 0.5),
            "episodes": choice([4, 8, 16, 32]),
            "width": lograndint(2, 65),
            "scale": loguniform(1e-3, 3.0),
            "baseline": choice([False, True]),
        },
        "return",
        "max",
        27,
        reinforce,
    ),
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
