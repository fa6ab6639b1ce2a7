"""Do agents without a value baseline learn worse? Sixteen agents of each kind on two MuJoCo tasks, to 200 iterations.

    nice -n 15 python -m tune_platform.trainables.policy_gradient.learning --out docs/figures/policy_gradient

Some 25 minutes of two cores for each task. An agent that is done is in `learning.jsonl` and is not trained again; the
table and the figure are of those that are there (`--report`: train none). Ilyas et al. (2020): agents with a value
baseline get much more reward. The test was fixed before the run: the ratio of returns (mean of the ten iterations
before the stage), paired by agent, at iteration 200.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.policy_gradient.training import Training
from tune_platform.trainables.runtime import stream_seed
from tune_platform.trainables.stats import mean_interval, paired_ratio
from tune_platform.trainables.studies.results import Found, Inputs, Results, measure
from tune_platform.trainables.studies.tables import markdown

TASKS = ("Hopper-v5", "Walker2d-v5")
BASELINES = ("value", "zero")
AGENTS, ITERATIONS = 16, 200
#: Where returns are compared; the last one is the test.
STAGES = (45, 100, 150, 200)
#: Environments stepped together and minibatches: neither is the paper's (1 and 32), for speed.
SETTINGS = {"variant": "ppo", "envs": 8, "minibatches": 8, "horizon": 488}


def jobs(tasks: Sequence[str] = TASKS, agents: int = AGENTS, iterations: int = ITERATIONS) -> list[dict[str, Any]]:
    """Return the agents to train: task by task, those with and without a baseline in turn."""
    return [
        {"task": task, "baseline": baseline, "seed": seed, "iterations": iterations, **SETTINGS}
        for task in tasks
        for seed in range(agents)
        for baseline in BASELINES
    ]


def train(job: Inputs) -> Found:
    """Train one agent; return the mean return of the episodes that ended in each iteration, and what else is cheap."""
    settings = Settings.of({
        "env_id": job["task"], "variant": job["variant"], "envs": job["envs"], "minibatches": job["minibatches"],
        "iterations": job["horizon"], "baseline": job["baseline"], "eval_every": 10**9, "eval_episodes": 1,
    })  # fmt: skip
    # One seed for both kinds: they begin with the same weights and episodes.
    training = Training(settings, stream_seed(0, "learning", str(job["task"]), int(job["seed"])))
    rows = [training.iteration() for _ in range(int(job["iterations"]))]
    training.close()
    return {name: [row[name] for row in rows] for name in ("train_return", "kl", "max_ratio", "explained_variance")}


def returns(results: Results, task: str, baseline: str, iterations: int) -> dict[int, list[float]]:
    """Return by agent the returns of its training episodes, iteration by iteration."""
    rows = results.rows(task=task, baseline=baseline, iterations=iterations)
    return {int(row["seed"]): row["train_return"] for row in rows}


def level(trace: Sequence[float], stage: int) -> float:
    """Return the mean return of the ten iterations before a stage."""
    return fmean(trace[max(0, stage - 10) : stage])


def table(results: Results, tasks: Sequence[str] = TASKS, iterations: int = ITERATIONS) -> str:
    """Return the comparison of agents with and without a baseline at each stage, of the pairs that are there."""
    lines = []
    for task in tasks:
        with_value, without = (returns(results, task, baseline, iterations) for baseline in BASELINES)
        agents = sorted(set(with_value) & set(without))
        for stage in [stage for stage in STAGES if stage <= iterations and len(agents) > 1]:
            a, b = ([level(traces[agent], stage) for agent in agents] for traces in (with_value, without))
            found = paired_ratio(a, b)
            ahead = sum(x > y for x, y in zip(a, b, strict=True))
            lines.append([
                task, stage, f"{fmean(a):.0f}", f"{fmean(b):.0f}",
                f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]", f"{found.p:.3f}", f"{ahead} of {len(agents)}",
            ])  # fmt: skip
    titles = ["task", "iteration", "return with a baseline", "without", "ratio [95 %]", "p", "agents ahead with it"]
    return markdown(titles, lines)


def draw(results: Results, out: Path, tasks: Sequence[str] = TASKS, iterations: int = ITERATIONS) -> None:
    """Write `learning_baseline.png`: the geometric mean over agents and its 95 % interval, a panel for each task."""
    from matplotlib.figure import Figure

    shown = [task for task in tasks if len(returns(results, task, BASELINES[-1], iterations)) > 1]
    if not shown:
        return
    figure = Figure(figsize=(4.6 * len(shown), 3.4), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for baseline, colour, name in zip(BASELINES, ("#1f78b4", "#d95f02"), ("value baseline", "none"), strict=True):
            traces = list(returns(results, task, baseline, iterations).values())
            stages = range(10, iterations + 1, 5)
            found = [mean_interval([math.log(level(trace, stage)) for trace in traces]) for stage in stages]
            axis.plot(stages, [math.exp(one.mean) for one in found], color=colour, label=f"{name}, {len(traces)}")
            low, high = ([math.exp(value) for value in side] for side in zip(*(one[1:3] for one in found), strict=True))
            axis.fill_between(stages, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=task, xlabel="iteration (2,048 pairs each)", yscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    figure.axes[0].set_ylabel("return of training episodes")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "learning_baseline.png", dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("policy_gradient_study"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="train no agent")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    wanted = jobs(given.tasks, given.agents, given.iterations)
    results = Results(given.out / "learning.jsonl")
    if not given.report:
        measure(wanted, train, results, processes=given.processes)
    sys.stdout.write(table(results, given.tasks, given.iterations) + "\n")
    draw(results, given.out, given.tasks, given.iterations)
    return 0


if __name__ == "__main__":
    sys.exit(main())
