"""The study: are the claims of Yang et al. (2020) to be seen on small images and two cores?

    python -m tune_platform.trainables.robustness.study --out docs/figures/robustness
    python -m tune_platform.trainables.robustness.study --quick --out /somewhere

Seeds draw the split, the weights, the batches and the attacks; methods are paired by seed. Every finished training is
written to `results.jsonl` at once, by all that it depends on, and is not done again. Tables (`tables.md`) and figures
are made from that file alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from tune_platform.trainables.data import load_images
from tune_platform.trainables.robustness.evaluate import build_evaluation
from tune_platform.trainables.robustness.plan import Job, Plan, jobs, plan_for
from tune_platform.trainables.robustness.separation import NearestClass, random_labels, separation
from tune_platform.trainables.robustness.trainable import Parts, Training, complete, load_parts
from tune_platform.trainables.runtime import generator
from tune_platform.trainables.studies.results import Found, Inputs, Results, measure


def train(job: Job, parts: Parts) -> dict[str, Any]:
    """Train and measure one network; the measurements are those of its last epoch."""
    started = time.perf_counter()
    training = Training(job.config, parts, job.seed)
    while training.epochs_done < int(training.config["epochs"]):
        metrics = training.learn()
    found: dict[str, Any] = training.analysis()
    evaluation = training.evaluation
    found["val_accuracy"] = evaluation.accuracy(training.model, parts.val)
    found["val_adv_accuracy"] = evaluation.pgd_accuracy(training.model, parts.val, job.seed, "val")
    found["test_lipschitz_released"] = evaluation.lipschitz(
        training.model, parts.test, job.seed, "released", as_released=True
    )
    return {**found, "train_loss": metrics["train_loss"], "seconds": time.perf_counter() - started}


def measure_separation(config: Mapping[str, Any], seed: int, device: str) -> dict[str, float]:
    """Return the separation of one split, that with random labels, and what the classifier of theorem 1 makes of it."""
    config = complete({**config, "split_seed": seed})
    parts = load_parts(config, device)
    evaluation, eps = build_evaluation(config), float(config["eps"])
    train, test = ((images[:], labels) for images, labels in (parts.train, parts.test))
    images, answers = (torch.cat(pair) for pair in zip(train, test, strict=True))
    r = separation((images, answers), device=device, progress=_told(seed)).minimum / 2
    labels = random_labels(train[1], parts.classes, generator(train[1].device, seed, "labels"))
    found: dict[str, float] = {}
    for name, one in (
        ("train_train", separation(train, device=device)),
        ("test_train", separation(test, train, device=device)),
        ("random_labels", separation((train[0], labels), device=device)),
    ):
        found |= {f"{name}_min": one.minimum, f"{name}_mean": one.mean}
    knows_all = NearestClass(images, answers, parts.classes, r)
    knows_train = NearestClass(*train, parts.classes, r)
    for name, classifier in (("theorem", knows_all), ("nearest", knows_train)):
        found[f"{name}_test_accuracy"] = evaluation.accuracy(classifier, test)
        found[f"{name}_test_adv_accuracy"] = evaluation.pgd_accuracy(classifier, test, seed, name)
        found[f"{name}_test_certified"] = float(classifier.astute(*test, eps).double().mean())
        found[f"{name}_test_lipschitz"] = evaluation.lipschitz(classifier, test, seed, name)
    return found


def _told(seed: int) -> Callable[[int, int], None]:
    """Return what says how far the distances of a large dataset are: a line for every tenth block."""

    def tell(done: int, total: int) -> None:
        if total > 10_000 and (done // 1024) % 10 == 0:
            click.echo(f"split {seed}: distances of {done} of {total} images", err=True)

    return tell


def run(plan: Plan, out: Path, processes: int = 1) -> dict[str, Any]:
    """Run what is not in `out`/results.jsonl yet, write each result there, and return those of the plan.

    Returned are `plan`, `separation` by seed, and `runs`: every training with its table, method, dropout and seed.
    """
    kept = Results(out / "results.jsonl")
    splits = [
        {"table": "separation", "seed": seed, "device": plan.device, "config": dict(plan.base)}
        for seed in range(plan.seeds)
    ]
    trainings = [job.inputs(plan.device) for job in jobs(plan)]
    measure([*splits, *trainings], _work, kept, processes=processes)
    described = json.loads(json.dumps({name: value for name, value in asdict(plan).items() if name != "seeds"}))
    named = ("table", "method", "dropout", "seed")
    return {
        "plan": described,
        "separation": {str(inputs["seed"]): kept.found(inputs) for inputs in splits},
        "runs": [{**{name: inputs[name] for name in named}, **kept.found(inputs)} for inputs in trainings],
    }


def _work(inputs: Inputs) -> Found:
    """Measure one split, or train one network; a process of its own may do it."""
    table, seed, config, device = inputs["table"], int(inputs["seed"]), inputs["config"], str(inputs["device"])
    if table == "separation":
        return measure_separation(config, seed, device)
    job = Job(table=table, method=inputs["method"], dropout=inputs["dropout"], seed=seed, config=config)
    return train(job, load_parts(complete(config), device))


@click.command(help="Re-test the claims of Yang et al. (2020); see docs/robustness.md.")
@click.option("--quick", is_flag=True, help="Tiny networks, two epochs: shows that everything runs.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(min=1), help="Splits and initialisations.")
@click.option("--out", default="robustness_study", show_default=True, type=click.Path(path_type=Path))
@click.option("--dataset", default="digits", show_default=True, help="A name that tune_platform.trainables.data knows.")
@click.option("--root", default=None, help="Folder of the dataset's files.")
@click.option("--eps", default=None, type=float, help="Radius of both tables (digits: 0.2, and 0.1 for dropout).")
@click.option("--model", default="mlp", show_default=True, help="mlp, cnn, cnn1, cnn2, wrn or resnet50.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Of each process.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(min=1), help="Trainings at a time.")
def main(
    quick: bool,
    seeds: int,
    out: Path,
    dataset: str,
    root: str | None,
    eps: float | None,
    model: str,
    device: str,
    threads: int,
    processes: int,
) -> None:
    """Run the study and write its tables and figures."""
    from tune_platform.trainables.robustness import figures, tables

    torch.set_num_threads(threads)
    changes: dict[str, Any] = {"dataset": dataset, "root": root, "model": model, "device": device}
    if eps is not None:
        changes["eps"] = eps
    try:
        load_images(dataset, root)  # a mistake is told before anything is run
        plan = plan_for(quick, seeds, **changes)
        results = run(plan, out, processes)
    except ValueError as e:
        raise click.ClickException(str(e)) from e
    (out / "tables.md").write_text(tables.markdown(results))
    figures.draw_all(results, out)
    click.echo(tables.markdown(results))


if __name__ == "__main__":
    main()
