"""The shipped trainables beside the plain script of the same model: images or steps per second, as a ratio.

    python -m benchmarks.trainables --quick --json
    python -m benchmarks.trainables

Beside each trainable runs the loop that a person would write for the same network, data, batch size and optimiser, with
no more than what the task needs: torchvision's reference loop for classification, ten steps of PGD and one of training
for adversarial training, cross-entropy on labelled pixels for segmentation. Policy gradients stand beside
stable-baselines3's PPO. All measure with one thread, in turn, so many rounds; a round's ratio is that of the two times,
and medians of them are quoted. Times are processor time of this process, which other work on the machine changes
little. glibc is told to keep memory that is freed: whether it gives a gradient's pages back to the system at each step
is a matter of where the last block lies, and decides by 10 % for either side. The goal for each ratio is 0.97.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.report import Table

GOAL = 0.97
#: Does so many steps and returns how many images (or environment steps) that were.
Run = Callable[[int], int]


class Pair(NamedTuple):
    """A trainable, and the plain script of the same: each is run for so many steps a round."""

    ours: Run
    plain: Run
    steps: int
    #: Rounds for each that is asked for: of short rounds there are more, for a median that other work moves less.
    times: int = 1


# ------------------------------------------------------------------------------------------ classification


def classification(model: str, task: dict[str, Any], batch: int, steps: int) -> Pair:
    """`ClassificationTrainable` as one worker, and torchvision's `train_one_epoch` and `evaluate`."""
    import torchvision

    from tune_platform.trainable import TrialContext
    from tune_platform.trainables.classification import ClassificationTrainable

    config = {
        **task, "model": model, "batch_size": batch, "lr": 0.01, "updates": 10**9, "report_every": steps,
        "test": "never", "strategy": "all_reduce", "channels": 16,
    }  # fmt: skip
    trainable = ClassificationTrainable(TrialContext(resources={"cpu": 1}))
    trainable.setup(config)
    data = trainable.task()
    images, labels = data.train
    network: nn.Module = (
        trainable._network() if model == "cnn" else torchvision.models.get_model(model, num_classes=data.classes)
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    batches = _endless(images, labels, batch)

    def ours(count: int) -> int:
        trainable.step()
        return count * batch

    def plain(count: int) -> int:
        network.train()
        total = 0.0
        for _ in range(count):
            image, target = next(batches)
            loss = criterion(network(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()  # as the reference's logger does
        network.eval()
        right = 0
        with torch.inference_mode():
            for x, y in zip(*(torch.split(part, 500) for part in data.val), strict=True):
                output = network(x)
                total += criterion(output, y).item()
                right += int((output.argmax(1) == y).sum())
        return count * batch

    return Pair(ours, plain, steps, times=3 if model == "cnn" else 1)


def _endless(images: Tensor, labels: Tensor, batch: int) -> Any:
    while True:
        order = torch.randperm(len(images))
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            yield images[chosen], labels[chosen]


# ------------------------------------------------------------------------------------------ robust training


def adversarial(steps: int) -> Pair:
    """An epoch of AT on the digits, and the loop of Madry et al.: ten steps of PGD, one of training."""
    from tune_platform.trainables.robustness.trainable import Training, complete, load_parts

    config = complete({"method": "at", "model": "cnn", "epochs": 10**6, "analysis_every": 0, "batch_size": 64})
    parts = load_parts(config, "cpu")
    training = Training(config, parts, seed=0)
    network = Training(config, parts, seed=0).model
    optimizer = torch.optim.Adam(network.parameters(), float(config["lr"]))
    images, labels = parts.train[0][:], parts.train[1]
    eps = float(config["eps"])

    def ours(count: int) -> int:
        for _ in range(count):
            training.learn()
        return count * len(labels)

    def plain(count: int) -> int:
        for _ in range(count):
            order = torch.randperm(len(labels))
            for start in range(0, len(order), 64):
                chosen = order[start : start + 64]
                x, y = images[chosen], labels[chosen]
                network.eval()
                moved = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
                for _ in range(10):
                    moved.requires_grad_(True)
                    loss = functional.cross_entropy(network(moved), y)
                    (slope,) = torch.autograd.grad(loss, moved)
                    moved = moved.detach() + eps / 5 * slope.sign()
                    moved = torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)
                network.train()
                loss = functional.cross_entropy(network(moved.detach()), y)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return count * len(labels)

    return Pair(ours, plain, steps, times=3)


# ------------------------------------------------------------------------------------------ segmentation


def segmentation(steps: int) -> Pair:
    """SPNet on digit scenes, and the plain loop: augment, score, cross-entropy on labelled pixels, AdamW."""
    from tune_platform.trainables.zero_label.augment import augment
    from tune_platform.trainables.zero_label.scenes import digit_scenes
    from tune_platform.trainables.zero_label.self_training import SelfTraining
    from tune_platform.trainables.zero_label.splits import VOID, load_split
    from tune_platform.trainables.zero_label.trainable import build_model, complete

    config = complete({"base_steps": 10**9, "train_scenes": 200, "stage": "final"})
    task = load_split(config["split"]).task("final")
    scenes = digit_scenes(task, "train", 200)
    training = SelfTraining(config, task, scenes, build_model(config, task, 1, "cpu", 0), 0)
    network = build_model(config, task, 1, "cpu", 0)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-4)
    draws = torch.Generator().manual_seed(0)
    batch = training.batch_size

    def ours(count: int) -> int:
        training.part(count)
        return count * batch

    def plain(count: int) -> int:
        network.train()
        for _ in range(count):
            chosen = torch.randint(len(scenes), (batch,), generator=draws)
            positions = task.positions(scenes.labels[chosen])
            targets = torch.where((positions >= 0) & (positions < task.seen), positions, VOID)
            image, target = augment(scenes.images[chosen], (targets,), (0.9, 1.6), scenes.size, 0.0, draws)
            scores = network(image, "seen")
            target = functional.interpolate(target[:, None].float(), scores.shape[-2:])[:, 0].long()
            loss = functional.cross_entropy(scores, target, ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return count * batch

    return Pair(ours, plain, steps, times=3)


# ------------------------------------------------------------------------------------------ policy gradients


def policy_gradient(steps: int) -> Pair:
    """PPO on CartPole, and stable-baselines3's, at the numbers of `benchmarks.policy_gradient`."""
    from benchmarks.policy_gradient import OURS, PAIRS, sb3_model
    from tune_platform.trainables.policy_gradient import Settings
    from tune_platform.trainables.policy_gradient.training import Training

    settings = {**OURS["ppo"], "normalise_observations": True, "scale_rewards": True, "env_id": "CartPole-v1"}
    training = Training(Settings.of({**settings, "iterations": 10**6}), 0)
    model = sb3_model("ppo", "CartPole-v1", 0, normalise=True)
    model.learn(1)

    def ours(count: int) -> int:
        for _ in range(count):
            training.agent.update(training.collect())
        return count * PAIRS

    def plain(count: int) -> int:
        model.learn(count * PAIRS, reset_num_timesteps=False)
        return count * PAIRS

    return Pair(ours, plain, steps)


# ------------------------------------------------------------------------------------------ the comparison


def timed(run: Run, steps: int) -> float:
    """Return images or environment steps per second of processor time."""
    gc.collect()
    begin = time.process_time()
    count = run(steps)
    return count / (time.process_time() - begin)


def keep_memory() -> None:
    """Have glibc keep what is freed; another C library is left as it is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the most that every version takes


def compare(pair: Pair, rounds: int) -> dict[str, float]:
    """Run both once to warm up, then in turn, each first in every other round; return medians and their ratio."""
    for run in (pair.ours, pair.plain):
        run(pair.steps)
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(rounds * pair.times):
        both = [("ours", pair.ours), ("plain", pair.plain)]
        for name, run in both if number % 2 == 0 else reversed(both):
            rates[name].append(timed(run, pair.steps))
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    return {
        "ours": statistics.median(rates["ours"]), "plain": statistics.median(rates["plain"]),
        "ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1],
    }  # fmt: skip


def pairs(*, quick: bool) -> dict[str, Callable[[], Pair]]:
    """Return what makes each pair, by name."""
    cifar = {"task": "synthetic", "examples": 512, "shape": (3, 32, 32), "classes": 10}
    return {
        "classification_resnet18": lambda: classification("resnet18", cifar, 32, 6 if quick else 24),
        "classification_cnn": lambda: classification("cnn", {"task": "digits"}, 32, 200 if quick else 800),
        "adversarial_training": lambda: adversarial(1 if quick else 4),
        "segmentation": lambda: segmentation(4 if quick else 16),
        "policy_gradient": lambda: policy_gradient(1 if quick else 4),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="short rounds, some 70 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each pair (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    table = Table("trainable", "ours, 1/s", "plain script, 1/s", "ratio", "lowest to highest")
    found: dict[str, float] = {}
    for name, make in pairs(quick=options.quick).items():
        one = compare(make(), options.rounds)
        table.add(
            name, f"{one['ours']:,.0f}", f"{one['plain']:,.0f}", f"{one['ratio']:.3f}",
            f"{one['lowest']:.3f} to {one['highest']:.3f}",
        )  # fmt: skip
        found[f"{name}_ratio"] = round(one["ratio"], 3)
    table.print()
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
