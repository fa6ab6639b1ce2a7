"""Tables (Markdown) and plots of a study's results; what each number is stands with it.

Intervals are 95 % t intervals over seeds. Over several triples, each seed's values are first averaged over the triples,
which are fixed and not a sample; methods are paired by triple and seed, since they start from the same network. The
p-values of the comparisons are corrected together by Holm's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats

from tune_platform.trainables.stats import Interval, holm, mean_interval, paired_difference
from tune_platform.trainables.studies.tables import markdown
from tune_platform.trainables.zero_label.study_plots import plot_gain, plot_labels, plot_rounds
from tune_platform.trainables.zero_label.study_results import Results, Row, gains

#: Arms as they are called in tables and plots.
ARM_NAMES: Mapping[str, str] = {
    "spnet": "SPNet",
    "calibrated": "SPNet-C, gamma validated",
    "oracle_gamma": "SPNet-C, gamma best on test",
    "longer": "longer (control)",
    "self_training": "self-training",
    "strict": "STRICT (filter)",
}
#: Below this share of unseen pixels named right among three classes, SPNet counts as being at chance; fixed beforehand.
CHANCE_BELOW = 0.40


def write_report(rows: Sequence[Row], out: Path) -> Path:
    """Write `report.md` and its plots into `out`; return the path of the former."""
    results = Results(rows)
    if not results.seeds:
        raise ValueError("there is no seed for which every triple has been measured: let the study run on")
    parts = [
        f"Triples: {', '.join(map(_triple, results.splits))}. Seeds: {', '.join(map(str, results.seeds))}.",
        "### Scores after the last round", _score_table(results),
        "### Comparisons", _comparisons(results),
        "### Pseudo-labels by round", _label_table(results),
        "### When the filter helps", _gain_table(results),
        "### Calibration", _calibration_table(results),
        "### Aside", _aside_table(results),
    ]  # fmt: skip
    plot_rounds(results, out / "rounds.png")
    plot_labels(results, out / "labels.png")
    plot_gain(results, out / "gain.png")
    path = out / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def _triple(split: str) -> str:
    return "{" + ", ".join(split.removeprefix("digits_")) + "}"


def _interval(found: Interval, digits: int = 1) -> str:
    if found.n == 1:
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _p(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def _score_table(results: Results) -> str:
    rows = []
    for split in results.splits:
        for arm, name in ARM_NAMES.items():
            seen, unseen, hm = (
                mean_interval(results.over_seeds(arm, what, split)) for what in ("seen", "unseen", "hm")
            )
            rows.append([_triple(split), name, f"{seen.mean:.1f}", f"{unseen.mean:.1f}", _interval(hm)])
    return markdown(["unseen", "method", "seen mIoU, %", "unseen mIoU, %", "harmonic mean, % [95 % interval]"], rows)


def _comparisons(results: Results) -> str:
    def difference(a: str, b: str, name: str) -> Interval:
        return paired_difference(results.over_seeds(a, name), results.over_seeds(b, name))

    lifts = [
        [results.value(s, seed, "strict", "hidden_precision", 1) for s in results.splits] for seed in results.seeds
    ]
    bases = [
        [results.value(s, seed, "strict", "hidden_zero_label_accuracy", 1) for s in results.splits]
        for seed in results.seeds
    ]
    lift = paired_difference([100 * float(np.mean(x)) for x in lifts], [100 * float(np.mean(x)) for x in bases])
    found = {
        "HM: SPNet-C (validated) - SPNet": difference("calibrated", "spnet", "hm"),
        "HM: longer - SPNet": difference("longer", "spnet", "hm"),
        "HM: self-training - SPNet": difference("self_training", "spnet", "hm"),
        "HM: self-training - longer": difference("self_training", "longer", "hm"),
        "HM: STRICT - longer": difference("strict", "longer", "hm"),
        "HM: self-training - SPNet-C (validated)": difference("self_training", "calibrated", "hm"),
        "HM: **STRICT - self-training**": difference("strict", "self_training", "hm"),
        "seen mIoU: self-training - longer": difference("self_training", "longer", "seen"),
        "unseen mIoU: STRICT - self-training": difference("strict", "self_training", "unseen"),
        "precision of round 1's labels: kept by the filter - all proposed": lift,
    }
    corrected = holm([each.p for each in found.values()]) if len(results.seeds) > 1 else [float("nan")] * len(found)
    rows = [
        [name, _interval(each, 2), _p(each.p), _p(p)] for (name, each), p in zip(found.items(), corrected, strict=True)
    ]
    rows += [
        [f"HM: STRICT - self-training, {_triple(split)} alone", _interval(one, 2), _p(one.p), ""]
        for split in results.splits
        for one in [
            paired_difference(
                results.over_seeds("strict", "hm", split), results.over_seeds("self_training", "hm", split)
            )
        ]
    ]
    return markdown(["difference, points", "mean [95 % interval]", "p", "p, Holm"], rows)


def _label_table(results: Results) -> str:
    rows = []
    names = ("hidden_coverage", "hidden_precision", "hidden_dropped_precision", "hidden_zero_label_accuracy")
    for split in results.splits:
        for arm in ("self_training", "strict"):
            for number in range(1, results.rounds + 1):
                chosen = [row for row in results.of(arm) if (row["round"], row["split"]) == (number, split)]
                hm = mean_interval(results.over_seeds(arm, "hm", split, number))
                shares = [_mean(chosen, name, 100) for name in names]
                rows.append([_triple(split), ARM_NAMES[arm], str(number), *shares, _interval(hm)])
    header = ["unseen", "method", "round", "coverage, %", "precision, %", "right among dropped, %",
              "right among all proposed, %", "HM after the round, %"]  # fmt: skip
    return markdown(header, rows)


def _gain_table(results: Results) -> str:
    cells = gains(results)
    rows = []
    regimes: Mapping[str, Callable[[float], bool]] = {
        f"at chance: p0 < {CHANCE_BELOW:.2f}": lambda p: p < CHANCE_BELOW,
        f"above chance: {CHANCE_BELOW:.2f} <= p0 < 0.55": lambda p: CHANCE_BELOW <= p < 0.55,
        "good: p0 >= 0.55": lambda p: p >= 0.55,
    }
    for name, inside in regimes.items():
        chosen = [cell for cell in cells if inside(cell["p0"])]
        if chosen:
            gain = [cell["gain"] for cell in chosen]
            lift = [100 * cell["lift"] for cell in chosen]
            better = sum(g > 0 for g in gain)
            rows.append(
                [name, str(len(chosen)), f"{np.mean(gain):.1f}", f"{better} of {len(chosen)}", f"{np.mean(lift):.1f}"]
            )
    text = markdown(
        ["p0: share of unseen pixels that SPNet names right", "cells", "mean HM gain of the filter, points",
         "filter ahead", "mean lift in precision, points"], rows)  # fmt: skip
    names = {
        "p0": "p0",
        "lift": "the filter's lift (precision kept - proposed, round 1)",
        "last_lift": "the same lift in the last round",
    }
    gain = [cell["gain"] for cell in cells]
    for name, what in names.items():
        values = [cell[name] for cell in cells]
        if len(set(values)) > 3 and len(set(gain)) > 3:
            rho, p = scipy_stats.spearmanr(values, gain)
            text += f"\n\nRank correlation over {len(cells)} cells of the gain with {what}: {rho:.2f} (p {p:.3f})."
    return text


def _calibration_table(results: Results) -> str:
    rows = []
    for split, row in results.calibrations.items():
        oracle = [results.value(split, seed, "oracle_gamma", "gamma") for seed in results.seeds]
        best = max(row["sweep"].values())
        rows.append([
            _triple(split), f"{row['gamma']:g}", f"{100 * row['sweep']['0.0']:.1f}", f"{100 * best:.1f}",
            ", ".join(f"{value:g}" for value in oracle),
        ])  # fmt: skip
    header = ["unseen", "gamma chosen while tuning", "tuning HM at gamma 0, %", "at that gamma, %",
              "best on test, by seed (never used)"]  # fmt: skip
    return markdown(header, rows)


def _mean(rows: Sequence[Row], name: str, scale: float) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{scale * float(np.mean(values)):.1f}" if values else ""


def _aside_table(results: Results) -> str:
    rows = []
    measures = {"seen": 1, "unseen": 1, "hm": 1, "hidden_precision": 100, "hidden_dropped_precision": 100,
                "seen_as_released": 1}  # fmt: skip
    for arm, name in {
        "released_background": "background taken as unlabelled, as released",
        "mirror": "mirror image as the second view",
        "strict": "STRICT as built",
    }.items():
        seeds = {row["seed"] for row in results.of("mirror")}
        for split in results.splits:
            chosen = [r for r in results.of(arm) if (r["split"], r["round"]) == (split, 1) and r["seed"] in seeds]
            if chosen:
                cells = [_mean(chosen, what, scale) for what, scale in measures.items()]
                rows.append([name, _triple(split), str(len(chosen)), *cells])
    header = ["one round of", "unseen", "seeds", "seen mIoU, %", "unseen mIoU, %", "HM, %", "precision, %",
              "right among dropped, %", "seen mIoU as the released evaluation counts, %"]  # fmt: skip
    return markdown(header, rows)
