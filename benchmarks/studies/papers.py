"""Every claim of the five papers beside what is measured here: the table of docs/papers.md, from the stored results.

    python -m benchmarks.studies.papers            # seconds; trains nothing

A verdict follows from the interval by a rule: "shows" where the 95 % interval lies on the claim's side of no effect (or
the test that was stated before the run says so), "the reverse shows" where it lies on the other, else "does not show".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies import codistillation, codistillation_period, lsgd
from tune_platform.trainables.policy_gradient import learning
from tune_platform.trainables.policy_gradient.summary import mean_of
from tune_platform.trainables.robustness.claims import Runs, judge
from tune_platform.trainables.robustness.plan import plan_for
from tune_platform.trainables.robustness.study import run as robustness_results
from tune_platform.trainables.stats import Interval, equivalent, mean_interval, paired_difference, paired_ratio
from tune_platform.trainables.studies.results import Results
from tune_platform.trainables.studies.tables import markdown, put_into
from tune_platform.trainables.zero_label import regime
from tune_platform.trainables.zero_label.study import read_rows
from tune_platform.trainables.zero_label.study_results import Results as ZeroLabel

PAGE, FIGURES = Path("docs/papers.md"), Path("docs/figures")
MARKERS = ("<!-- table of the claims -->", "<!-- end of the table -->")
TITLES = ("paper", "claim", "the paper's figure", "here [95 %]", "verdict")
UNTRIED = "cannot be tested here"
#: Paper, claim, its figure, ours, verdict.
Claim = tuple[str, str, str, str, str]


def verdict(found: Interval, positive: bool = True, null: float = 0.0, why: str = "") -> str:
    """Return the verdict of an interval; `why` is the reason that was tested, or is known, where it does not show."""
    if found.low > null or found.high < null:
        return "shows" if (found.mean > null) == positive else "the reverse shows" + (f": {why}" if why else "")
    return "does not show" + (f": {why}" if why else "")


def show(found: Interval, form: str = ".2f") -> str:
    """Return an estimate with its interval."""
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def partly(said: str, few: str) -> str:
    """Return a verdict that shows with `few`, how much of the study is there, where it is not all."""
    return f"{said}; {few}" if few and said == "shows" else said


def codistilled(figures: Path) -> list[Claim]:
    """Sodhani et al. (2020)."""
    name = "codistillation"
    stored = json.loads((figures / "distributed" / "codistillation.json").read_text(encoding="utf-8"))
    runs, base = stored["runs"], "all-reduce"
    metric = codistillation.values
    results = Results(figures / "distributed" / "codistillation_period.jsonl")
    by_period = codistillation_period.by_method(results, codistillation.UPDATES)
    ours, reference = by_period[str(codistillation_period.DEFAULT)], by_period[base]
    count = len(reference)
    accuracy = paired_difference(metric(ours, "accuracy"), metric(reference, "accuracy"))
    same, p = equivalent(metric(ours, "accuracy"), metric(reference, "accuracy"), codistillation.MARGINS["accuracy"])
    moved = paired_difference(metric(ours, "distance"), metric(reference, "distance"))
    alone = paired_difference(
        metric(by_period[codistillation_period.INDEPENDENT], "accuracy"), metric(reference, "accuracy")
    )
    over = paired_difference(
        metric(runs["codistilled, constant decay"], "train_loss"), metric(runs[base], "train_loss")
    )
    mended = paired_difference(
        metric(runs["codistilled, decay schedule"], "train_loss"),
        metric(runs["codistilled, constant decay"], "train_loss"),
    )
    few = paired_difference(
        metric(stored["quarter"]["codistilled, decay schedule"], "nll"), metric(stored["quarter"][base], "nll")
    )
    ratio = stored["resnet50"]
    bytes_ratio = ratio["all_reduce"] / ratio["codistillation"] if "all_reduce" in ratio else math.nan
    return [
        (name, "as accurate as all-reduce at equal updates, with the decay schedule", "75.9 against 76.1 % (ResNet-50)",
         f"{show(accuracy)} points, {count} seeds; within 0.5: p = {p:.1g}", "shows" if same else "does not show"),
        (name, "... what is left is that of independent models of half the batch", "not tested",
         f"{show(alone)} points with alpha 0", "seen here"),
        (name, "models stay nearer to where they began", "figure only", f"{show(moved)} of some 13",
         verdict(moved, positive=False)),
        (name, "with constant decay it underfits", "some 2 points of accuracy", f"training loss {show(over, '+.4f')}",
         verdict(over)),
        (name, "decay that falls with the rate lowers the training loss", "closes the gap", show(mended, "+.4f"),
         verdict(mended, positive=False)),
        (name, "better than all-reduce on few data", "grows as data shrink", f"NLL {show(few, '+.4f')}, a quarter",
         verdict(few, positive=False)),
        (name, "bytes: 1 / 2T of all-reduce's", "T = 2,500", f"1 / {bytes_ratio:,.0f} counted, T = 2,252"
         if math.isfinite(bytes_ratio) else "counted: docs/codistillation.md", "shows"),
        (name, "translation, ResNeXt-101", "NLL 2.31 against 2.37", "no such data here", UNTRIED),
    ]  # fmt: skip


def followed(figures: Path) -> list[Claim]:
    """Teng et al. (2019)."""
    name, folder = "LSGD", figures / "distributed"
    symmetric = json.loads((folder / "symmetry.json").read_text(encoding="utf-8"))["factorisation"]

    def arrived(method: str) -> str:
        best = [min(losses) for rank in symmetric.values() for losses in rank[method]]
        return f"{sum(loss < 1e-12 for loss in best)} of {len(best)}"

    stored = json.loads((folder / "lsgd.json").read_text(encoding="utf-8"))
    fixed = {init: lsgd.compare(stored["fixed"][init], stored["steps"]) for init in ("same", "different")}
    slow = [mean_interval([1.0 * run["seconds"] for run in stored["straggler"][f"LSGD, {how}"]])
            for how in ("together", "asynchronous")]  # fmt: skip
    found: list[Claim] = [
        (name, "the leader comes to a minimum where EASGD's workers are held between", "figure only",
         f"best worker arrives: LSGD {arrived('LSGD')}, EASGD {arrived('EASGD')}", "shows"),
    ]  # fmt: skip
    for init in ("same", "different"):
        one = fixed[init]["EASGD, beta 0.43"]
        text = f"sooner at the target than EASGD, {init} initial parameters"
        found.append((name, text, "figure only", f"EASGD takes {show(one)} times the steps", verdict(one, null=1)))
    none = fixed["same"]["none (mean of 4)"]
    return [
        *found,
        (name, "sooner than workers that do not communicate", "not compared", f"{show(none)} times the steps",
         verdict(none, null=1, why="from the same parameters, a mean of independent workers is as good on digits")),
        (name, "asynchronous: does not wait for a slow worker", "stated",
         f"{slow[1].mean:.0f} against {slow[0].mean:.0f} virtual seconds", "shows"),
        (name, "error on CIFAR-10 and ImageNet", "figure only", "no such data here", UNTRIED),
    ]  # fmt: skip


def robust(figures: Path) -> list[Claim]:
    """Yang et al. (2020)."""
    name = "robustness"
    plan = plan_for(False, 10, dataset="digits", root=None, model="mlp", device="cpu")
    results = robustness_results(plan, figures / "robustness")
    judged = {each.claim.text: each for each in judge(results)}
    runs = Runs(results)
    eps = float(plan.base["eps"])

    def row(text: str, paper: str, unit: str = "points", why: str = "") -> Claim:
        each = judged[text]
        form = ".2f" if unit != "points" else ".1f"
        said = each.verdict + (f": {why}" if why and each.verdict != "shows" else "")
        return (name, text, paper, f"{show(each.claim.interval, form)} {unit}, p {each.p:.1g}", said)

    apart, proved = min(runs.apart("train_train_min")), min(runs.apart("theorem_test_certified"))
    return [
        (name, "classes are separated beyond 2 eps", "0.21 against 0.06 (CIFAR-10)",
         f"{apart:.4f} against {2 * eps:g} (digits)", "shows" if apart > 2 * eps else "does not show"),
        (name, "an accurate and robust classifier exists (theorem 1)", "proof",
         f"{100 * proved:.0f} % proved robust, all images known", "shows" if proved == 1 else "does not show"),
        row("Lower Lipschitz constants go with robustness (MT)", "425.7 and 0 % to 13.1 and 48.6 %", "(Spearman)"),
        row("TRADES 3 has a lower local Lipschitz constant than TRADES 1", "22.4 against 28.0", "times"),
        row("TRADES 3 is more robust than TRADES 1", "46.6 against 43.7 %",
            why="under PGD it gains 3 points, which the stronger attack takes back"),
        row("AT is more robust than GR", "43.5 against 21.3 %"),
        row("AT is more robust than LLR", "43.5 against 22.1 %"),
        row("AT is less accurate than Natural", "83.5 against 93.8 %"),
        row("AT has a larger adversarial gap than Natural", "49.9 against 0 points",
            why="the network does not overfit 1,197 digits in 12 epochs; it does with 300 digits, see the next line"),
        row("Dropout 0.5 shrinks the adversarial gap of robust training that overfits", "25.7 to 6.5 points (SVHN, AT)",
            why="tried where the gap is 22 points"),
        row("Dropout 0.5 raises the adversarial test accuracy of robust training that overfits",
            "54.2 to 57.9 % (SVHN, AT)", why="tried where the gap is 22 points"),
        (name, "the numbers on CIFAR-10 and Restricted ImageNet", "tables of the paper", "no such data here", UNTRIED),
    ]  # fmt: skip


def deep_gradients(figures: Path) -> list[Claim]:
    """Ilyas et al. (2020)."""
    name, folder = "policy gradients", figures / "policy_gradient"
    measured = Results(folder / "results.jsonl")

    def stages(stage: int) -> list[dict[str, Any]]:
        return measured.rows(kind="stage", name="Hopper/ppo", stage=stage)

    late, early, papers_own = stages(45), stages(0), stages(300)

    def each(rows: Sequence[Mapping[str, Any]], value: Callable[[Any], float]) -> list[float]:
        return [value(row) for row in rows]

    def aligned(row: Any) -> float:
        return float(row["gradient"]["qualities"][-1]["pairwise"])

    def noise(row: Any) -> float:
        return float(row["gradient"]["qualities"][-1]["noise_scale"])

    def at_2000(baseline: str, rows: Sequence[Mapping[str, Any]] = late) -> list[float]:
        return each(rows, lambda row: float(row["values"]["reduction"][baseline][-1]["pairwise"]))

    aligned_late = mean_interval(each(late, aligned))
    grown = paired_ratio(each(late, noise), each(early, noise))
    better, worth = (
        paired_difference(at_2000("true"), at_2000("value")),
        paired_difference(at_2000("value"), at_2000("zero")),
    )
    later = paired_difference(at_2000("value", papers_own), at_2000("zero", papers_own))
    off = paired_difference(
        each(late, lambda row: mean_of(row["values"]["errors"], "returns_mre_held_out")),
        each(late, lambda row: mean_of(row["values"]["errors"], "gae_mre_held_out")),
    )
    promise = paired_ratio(
        each(late, lambda row: mean_of([one["scalars"] for one in row["lines"]], "surrogate_small")),
        each(late, lambda row: mean_of([one["scalars"] for one in row["lines"]], "surrogate_large")),
    )
    trained = Results(folder / "learning.jsonl")
    rewarded = [learned(name, trained, task) for task in learning.TASKS]
    return [
        (name, "two gradients from 2,048 pairs are hardly aligned", "cosine near 0",
         f"{show(aligned_late)}, Hopper at 45", "shows" if aligned_late.high < 0.5 else "does not show"),
        (name, "the estimates get worse in training", "figure only", f"noise scale {show(grown, '.1f')} times, 0 to 45",
         verdict(grown, null=1)),
        (name, "the value network is off the true returns, more than off its targets", "some 50 % off",
         f"relative error +{show(off, '.3f')}", verdict(off) + ", but the error is 7 %"),
        (name, "true values would reduce the variance more", "figure only", f"cosine +{show(better)}", verdict(better)),
        (name, "the learned ones hardly reduce it, early (45)", "figure only", f"cosine +{show(worth)} over none",
         "the reverse shows" if worth.low > 0 else "shows"),
        (name, "the learned ones hardly reduce it, at the paper's stage 300", "figure only",
         f"cosine +{show(later)} over none, {len(papers_own)} agents",
         "shows" if later.high < 0.1 else "does not show"),
        *rewarded,
        (name, "later in training few samples promise what many do not", "figure only",
         f"S(few) / S(many) {show(promise, '.1f')} at 45", verdict(promise, null=1)),
        (name, "the harder the task, the worse (Humanoid)", "figure only", "days of cores", UNTRIED),
    ]  # fmt: skip


def learned(name: str, results: Results, task: str) -> Claim:
    """Return what agents with a value baseline earn beside those without, on a task."""
    kinds = (learning.returns(results, task, kind, learning.ITERATIONS) for kind in learning.BASELINES)
    with_value, without = kinds
    agents = sorted(set(with_value) & set(without))
    claim = (name, f"yet agents without a baseline get much less reward, {task}", "figure only")
    if len(agents) < 2:
        return (*claim, f"{len(agents)} pairs of agents", "not tested yet")
    levels = [
        [learning.level(traces[agent], learning.ITERATIONS) for agent in agents] for traces in (with_value, without)
    ]
    reward = paired_ratio(levels[0], levels[1])
    ahead = sum(a > b for a, b in zip(*levels, strict=True))
    few = f"{len(agents)} of {learning.AGENTS} pairs are there" if len(agents) < learning.AGENTS else ""
    why = few or "agents differ more among each other than by their baseline"
    return (
        *claim, f"{show(reward)} times at {learning.ITERATIONS}, ahead in {ahead} of {len(agents)} pairs",
        partly(verdict(reward, null=1, why=why), few),
    )  # fmt: skip


def zero_label(figures: Path) -> list[Claim]:
    """Pastore et al. (2021)."""
    name = "STRICT"
    results = ZeroLabel(read_rows(figures / "zero_label"))

    def difference(a: str, b: str, metric: str = "hm") -> Interval:
        return paired_difference(results.over_seeds(a, metric), results.over_seeds(b, metric))

    def shares(metric: str) -> list[float]:
        return [
            100 * float(np.mean([results.value(split, seed, "strict", metric, 1) for split in results.splits]))
            for seed in results.seeds
        ]

    purer = paired_difference(shares("hidden_precision"), shares("hidden_zero_label_accuracy"))
    calibrated, trained = difference("calibrated", "spnet"), difference("self_training", "longer")
    seen, filtered = difference("self_training", "longer", "seen"), difference("strict", "self_training")
    trained_base = Results(figures / "zero_label" / "regime.jsonl")
    return [
        (name, "calibration helps SPNet", "HM 0.0 to 26 (VOC)", f"{show(calibrated, '.1f')} points",
         verdict(calibrated)),
        (name, "self-training raises the harmonic mean", "21.8 to 38.8 (VOC)",
         f"{show(trained, '.1f')} points over as long a training without", verdict(trained)),
        (name, "seen classes gain as well", "73.3 to 77.8", f"{show(seen, '.1f')} points", verdict(seen)),
        (name, "labels that all views agree on are more often right", "figure only", f"{show(purer, '.1f')} points",
         verdict(purer)),
        (name, "the filter improves on plain self-training", "38.8 to 49.8 (VOC)", f"{show(filtered, '.1f')} points",
         verdict(filtered, why="SPNet has 600 steps here; the next line has 1,500")),
        *(claim for family in regime.FAMILIES for claim in with_a_trained_base(name, trained_base, family)),
        *views_of_shapes(name, [row for split in regime.SHAPES for row in trained_base.rows(split=split)]),
        (name, "82.7 / 35.6 / 49.8 on VOC, 35.3 / 30.3 / 32.6 on COCO-Stuff", "table 1", "no such data here", UNTRIED),
    ]  # fmt: skip


def with_a_trained_base(name: str, results: Results, family: str) -> list[Claim]:
    """Return what the filter does once SPNet is trained near its end, on the triples of a family."""
    cells = regime.cells_of(results, family)
    number = len(next(iter(cells.values()), []))
    where = f"{family}: {number} seeds, {len(cells)} triples"
    claim = f"... with SPNet trained near its end (1,500 steps), four rounds of 200, on {family}"
    if number < 2:
        return [(name, claim, "38.8 to 49.8 (VOC)", where, "not tested yet")]
    gain, mended = (mean_interval(regime.gain_by_seed(cells, *arms)) for arms in regime.TESTS)
    before, after = (regime.shares_by_seed(cells, label) for label in ("proposed", "kept"))
    purer, found = (
        paired_difference([one[which] for one in after], [one[which] for one in before]) for which in (0, 1)
    )
    ahead = sum(gained > 0 for each in cells.values() for gained in regime.last_gain(each, *regime.TESTS[0]))
    few = f"{number} of {regime.SEEDS} seeds are there" if number < regime.SEEDS else ""
    return [
        (name, claim, "38.8 to 49.8 (VOC)",
         f"{show(gain, '.1f')} points, ahead in {ahead} of {number * len(cells)} cells ({where})",
         partly(verdict(gain, why=(few and few + "; ") + "its labels lose recall, see the next lines"), few)),
        (name, f"... its labels are more often right, {family}", "figure only",
         f"{show(purer, '.1f')} points of precision in round 1",
         partly(verdict(purer, why=few or "by triple on its page"), few)),
        (name, f"... and labels that were right are dropped, {family}", "not told",
         f"{show(found, '.1f')} points of recall in round 1", "seen here" if found.high < 0 else "not seen here"),
        (name, f"... mended (stacking before it, agreement and weights by class), {family}", "not the paper's",
         f"{show(mended, '.1f')} points over STRICT",
         partly(verdict(mended, why=few or "what the views agree on is not what is right"), few)),
    ]  # fmt: skip


def views_of_shapes(name: str, cells: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Return what the views are worth by themselves where a mirror image keeps the label."""
    claim = (name, "mirror images and larger scales are the best views", "HM 47.0")
    if len(cells) < 2:
        return [(*claim, f"{len(cells)} cells of scenes of shapes", "not tested yet")]
    own, mirror, larger = (
        [100 * precision for precision, _ in regime.label_shares(cells, f"view {number}")] for number in (0, 1, 4)
    )
    mirrored, scaled = paired_difference(mirror, own), paired_difference(larger, own)
    text = f"precision to the image's: mirrored {show(mirrored, '.1f')}, at scale 1.5 {show(scaled, '.1f')} points"
    return [(*claim, f"{text}, {len(cells)} cells", "told by the labels of single views, not by training")]


def claims(figures: Path = FIGURES) -> list[Claim]:
    """Return all claims, paper by paper."""
    papers = (codistilled, followed, robust, deep_gradients, zero_label)
    return [claim for paper in papers for claim in paper(figures)]


def main() -> None:
    """Write the table into the page."""
    text = markdown(TITLES, claims())
    put_into(PAGE, MARKERS, text)
    print(text)


if __name__ == "__main__":
    main()
