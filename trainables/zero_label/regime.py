"""Is the filter worth it once SPNet is trained near its end? Six triples fixed in advance, and what mends the filter.

    nice -n 10 python -m tune_platform.trainables.zero_label.regime --out docs/figures/zero_label

Some 75 seconds of a core a triple and seed (five seeds and six triples are 40 minutes of a core). The errors of a
network that is not trained to its end are whole objects that all views repeat; so SPNet is trained 1,500 steps here, on
800 scenes, and four rounds of 200 steps follow (Pastore et al. 2021, section 3.2, has many more of both).

Stated before the runs. Triples: three of digits, and three of textured shapes that `random.Random(0)` drew among those
whose classes share parts, where a mirror image keeps the label. All are reported. How hard the scenes of shapes are was
set by SPNet alone: two thirds to nine tenths of its labels among the unseen are right. Seeds: as many as the time of
the day allowed by the cost of a cell. Tests, paired by seed, over the means of the triples of digits and of those of
shapes (Holm over the four): harmonic mean of STRICT less plain self-training, and of the mended filter less STRICT.
`mended` is calibrated stacking before the filter (gamma from the tuning stage), no labels of a class whose views agree
on under 30 % of them, weights by class from that agreement, and the two terms of the loss averaged apart (pseudo-labels
weigh 3/7).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from tune_platform.trainables.stats import holm, mean_interval, paired_difference
from tune_platform.trainables.studies.results import Found, Inputs, Results, measure
from tune_platform.trainables.studies.tables import markdown, put_into
from tune_platform.trainables.zero_label.diagnostics import label_counts, precision_and_recall
from tune_platform.trainables.zero_label.study import calibrate, start
from tune_platform.trainables.zero_label.study import measure as scores_of

DIGITS = ("digits_248", "digits_069", "digits_359")
SHAPES = ("shapes_d", "shapes_e", "shapes_f")
SPLITS = (*DIGITS, *SHAPES)
#: Cells without which no correlation over them is told.
MANY = 6
FAMILIES = {"digits": DIGITS, "shapes": SHAPES}
#: Not those of any earlier study.
FIRST_SEED, SEEDS = 41, 5
SETTINGS: Mapping[str, Any] = {
    "base_steps": 1500, "round_steps": 200, "train_scenes": 800, "crop": [24, 24], "rounds": 4, "views": "scale_shift",
}  # fmt: skip
#: What differs on shapes: their scenes are larger, and mirror images of them are among the views.
OF_SHAPES: Mapping[str, Any] = {
    "dataset": "shapes", "embeddings": "shapes", "crop": [32, 32], "flip": 0.5, "views": "mirror_scale",
}  # fmt: skip
MENDED: Mapping[str, Any] = {
    "class_agreement": 0.3, "class_weights": "agreement", "normalisation": "separate", "pseudo_weight": 3 / 7,
}  # fmt: skip
ARMS: Mapping[str, Mapping[str, Any]] = {
    "longer": {"method": "longer"},
    "self_training": {"method": "self_training"},
    "strict": {"method": "strict"},
    "mended": {"method": "strict", **MENDED},
}
#: What is tested, each arm less another.
TESTS = (("strict", "self_training"), ("mended", "strict"))
NAMES = {"longer": "longer (control)", "self_training": "self-training", "strict": "STRICT", "mended": "STRICT, mended"}
MARKERS = ("<!-- tables of the trained base -->", "<!-- end of the tables of the trained base -->")


def jobs(splits: Sequence[str], seeds: int, changes: Mapping[str, Any] = SETTINGS) -> list[dict[str, Any]]:
    """Return the cells to measure, seed by seed, so that a study that is cut short has whole seeds."""
    return [
        {"split": split, "seed": seed, "settings": {**changes, **(OF_SHAPES if split in SHAPES else {})}}
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for split in splits
    ]


def work(job: Inputs) -> Found:
    """Train SPNet once and go on from it by each arm; return the scores and label counts of every round."""
    split, seed, settings = str(job["split"]), int(job["seed"]), job["settings"]
    gamma = _gamma(split, json.dumps(settings))
    training, data = start(split, "final", seed, settings)
    training.round()
    found: dict[str, Any] = {"gamma": gamma, "spnet": [scores_of(training, data)]}
    for arm, changes in ARMS.items():
        own = {**changes, **({"pseudo_gamma": gamma} if arm == "mended" else {})}
        branch = training.branch({**training.config, **own})
        found[arm] = []
        for _ in range(int(settings["rounds"])):
            labels = {} if arm == "longer" else label_counts(branch, seed, images=150)
            branch.round()
            found[arm].append({**scores_of(branch, data), "labels": labels})
    return found


def tables(results: Results, splits: Sequence[str] = SPLITS) -> str:
    """Return all tables, of digits and of shapes, each of the seeds that all its triples have; what is not is named."""
    missing = [split.replace("_", " ") for split in splits if not results.rows(split=split)]
    families = {family: cells for family in FAMILIES if (cells := cells_of(results, family, splits))}
    if not families:
        raise ValueError("there is no seed that all triples of digits or of shapes have: let the study run on")
    scores, gains, labels, tests = [], [], [], []
    for family, cells in families.items():
        groups = {**{split.replace("_", " "): [split] for split in cells}, f"all {family}": [*cells]}
        for name, members in groups.items():
            last = {arm: _last([cells[split] for split in members], arm) for arm in ("spnet", *ARMS)}
            scores.append([name, *(_short(mean_interval(values)) for values in last.values())])
            pairs = [paired_difference(last[a], last[b]) for a, b in TESTS]
            gains.append([name, *map(_short, pairs), "", ""])
        tests.append((len(gains) - 1, [one.p for one in pairs]))
        for split, own in cells.items():
            labels += [[split.replace("_", " "), *row] for row in _of_labels(own)]
    corrected = iter(holm([p for _, each in tests for p in each if p == p]))  # NaN: one seed is no test
    for row, each in tests:
        gains[row][-2:] = [f"{next(corrected):.2g}" if p == p else "" for p in each]
    told = ", ".join(f"{len(next(iter(cells.values())))} of {SEEDS} of {family}" for family, cells in families.items())
    everything = [cell for cells in families.values() for each in cells.values() for cell in each]
    return "\n\n".join([
        f"Seeds: {told}"
        + (f"; no result yet of {', '.join(missing)}" if missing else "")
        + ". Harmonic mean after the last round, %, with 95 % intervals where there are several seeds:",
        markdown(["unseen", "SPNet", *NAMES.values()], scores),
        "Differences in points, paired by seed:",
        markdown(["unseen", "STRICT - self-training", "mended - STRICT", "p (Holm)", "p (Holm)"], gains),
        "STRICT's pseudo-labels, by class and then averaged, before and after the filter, %; last, the precision of "
        "each view by itself, the image first:",
        markdown(["unseen", "round", "precision", "recall", "precision, kept", "recall, kept", "by view"], labels),
        *_what_tells(everything),
    ])  # fmt: skip


def cells_of(results: Results, family: str, splits: Sequence[str] = SPLITS) -> dict[str, list[dict[str, Any]]]:
    """Return the cells of each triple of a family that was begun, by seed, of those seeds that all of these have."""
    rows = {split: {row["seed"]: row for row in results.rows(split=split)} for split in FAMILIES[family]}
    rows = {split: each for split, each in rows.items() if each and split in splits}
    common = sorted(set.intersection(*map(set, rows.values()))) if rows else []
    return {split: [each[seed] for seed in common] for split, each in rows.items()} if common else {}


def gain_by_seed(cells: Mapping[str, Sequence[Mapping[str, Any]]], arm: str, other: str) -> list[float]:
    """Return by seed how many points `arm` is ahead after the last round, on average over the triples."""
    return [float(np.mean(last_gain(each, arm, other))) for each in zip(*cells.values(), strict=True)]


def shares_by_seed(cells: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> list[tuple[float, float]]:
    """Return by seed precision and recall, in %, of the first round's labels, on average over the triples."""
    each = [np.mean(label_shares(one, name), axis=0) for one in zip(*cells.values(), strict=True)]
    return [(100 * float(precision), 100 * float(recall)) for precision, recall in each]


def last_gain(cells: Sequence[Mapping[str, Any]], arm: str, other: str) -> list[float]:
    """Return by cell (a triple and seed) how many points of the harmonic mean `arm` is ahead after the last round."""
    return [float(cell[arm][-1]["hm"] - cell[other][-1]["hm"]) for cell in cells]


def label_shares(cells: Sequence[Mapping[str, Any]], name: str, number: int = 0) -> list[tuple[float, float]]:
    """Return precision and recall (shares) of STRICT's labels of a round, by cell: "proposed", "kept", "view 0" ..."""
    return [_shares([cell["strict"][number]["labels"][name]]) for cell in cells]


@cache
def _gamma(split: str, settings: str) -> float:
    """Return the gamma that is chosen in the tuning stage; all seeds of a triple have the same one."""
    changes = json.loads(settings)
    return float(calibrate(split, {**changes, "base_steps": int(changes["base_steps"]) // 3})["gamma"])


def _last(triples: Sequence[Sequence[Mapping[str, Any]]], arm: str) -> list[float]:
    """Return by seed the harmonic mean after the last round, averaged over triples."""
    return [float(np.mean([cell[arm][-1]["hm"] for cell in cells])) for cells in zip(*triples, strict=True)]


def _of_labels(cells: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield for each round what STRICT's labels were worth, over the seeds of a triple."""
    for number in range(len(cells[0]["strict"])):
        each = [cell["strict"][number]["labels"] for cell in cells]
        shares = [_shares([one[name] for one in each]) for name in ("proposed", "kept")]
        views = [_shares([one[name] for one in each])[0] for name in each[0] if name.startswith("view")]
        text = " ".join(f"{100 * share:.0f}" for share in views)
        yield [str(number + 1), *(f"{100 * share:.0f}" for pair in shares for share in pair), text]


def _what_tells(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rank correlations of the filter's gain with what its labels were worth in the first round."""
    if len(cells) < MANY:
        return []
    before, after = (np.array(label_shares(cells, name)) for name in ("proposed", "kept"))
    known = {
        "precision before the filter": before[:, 0],
        "recall before the filter": before[:, 1],
        "what the filter adds to precision": after[:, 0] - before[:, 0],
        "what it takes of recall": before[:, 1] - after[:, 1],
        "share of the right labels that it keeps": after[:, 1] / before[:, 1],
    }
    gains = last_gain(cells, *TESTS[0])
    rows = []
    for name, values in known.items():
        rho, p = spearmanr(values, gains)
        rows.append([name, f"{rho:.2f}", f"{p:.2g}"])
    told = f"Over the {len(cells)} cells, the rank correlation of what STRICT gains over self-training with the labels "
    return [told + "of the first round:", markdown(["first round", "rho", "p"], rows)]


def _shares(tables: Sequence[Sequence[Sequence[int]]]) -> tuple[float, float]:
    """Return precision and recall, means over the classes that have labels, and over seeds."""
    each = [np.nanmean(np.array(precision_and_recall(one)), axis=0) for one in tables]
    precision, recall = np.mean(each, axis=0)
    return float(precision), float(recall)


def _short(interval: Any) -> str:
    if interval.n == 1:
        return f"{interval.mean:.1f}"
    return f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("zero_label_study"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--splits", nargs="+", default=list(SPLITS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="measure nothing more")
    parser.add_argument("--page", type=Path, help="put the tables between the markers of this Markdown page")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = Results(given.out / "regime.jsonl")
    if not given.report:
        measure(jobs(given.splits, given.seeds), work, results, processes=given.processes)
    text = tables(results, given.splits)
    sys.stdout.write(text + "\n")
    if given.page is not None:
        put_into(given.page, MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
