"""Tables and figures of a study's results, as Markdown: every number on the docs page comes from here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from tune_platform.trainables.policy_gradient import figures
from tune_platform.trainables.policy_gradient.values import BASELINES
from tune_platform.trainables.stats import Interval, mean_interval, paired_difference, paired_ratio
from tune_platform.trainables.studies.tables import markdown

Row = dict[str, Any]
#: Between these lines of a page stand the tables.
MARKERS = ("<!-- tables of the study -->", "<!-- end of the tables -->")


def summarise(rows: Sequence[Row], out: Path) -> str:
    """Write `summary.md` and the figures into `out`, of whatever results there are; return the text."""
    stages = [row for row in rows if row["kind"] == "stage"]
    parts = []
    for name in sorted({row["name"] for row in stages}):
        own = sorted((row for row in stages if row["name"] == name), key=lambda row: (row["stage"], row["seed"]))
        parts.append(f"### {name}\n")
        parts += [gradient_table(own), landscape_table(own)]
        if any("values" in row for row in own):
            parts += [value_table(own), baseline_table(own)]
        parts.append(claims_table(own))
        without = [row for row in rows if row["kind"] == "no baseline" and row["name"] == name]
        if without:
            parts.append(no_baseline_line(own, without))
        draw(own, out, name.replace("/", "_").lower())
    text = "\n".join(parts)
    (out / "summary.md").write_text(text)
    return text


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with an empty line after it."""
    return markdown(titles, rows) + "\n"


def by_stage(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Group the lines of one task by stage, each group ordered by seed."""
    return {stage: [row for row in rows if row["stage"] == stage] for stage in sorted({row["stage"] for row in rows})}


def show(values: Sequence[float], form: str = ".2f") -> str:
    """Return the mean of values over agents with its 95 % t interval; NaN and infinite values are left out and
    counted.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "-"
    interval = mean_interval(finite)
    text = f"{interval.mean:{form}}"
    if interval.n > 1:
        text += f" [{interval.low:{form}}, {interval.high:{form}}]"
    return text + (f" ({len(values) - len(finite)} left out)" if len(finite) < len(values) else "")


def gradient_table(rows: Sequence[Row]) -> str:
    """P and T by stage and N, B at the largest N, P of the steps that the algorithm takes."""
    sizes = [quality["pairs"] for quality in rows[0]["gradient"]["qualities"]]
    titles = ["iteration", "agents", "return", *(f"P({size})" for size in sizes), "T(2000)", "B (pairs)", "P of steps"]
    lines = []
    for stage, group in by_stage(rows).items():
        quality = [{entry["pairs"]: entry for entry in row["gradient"]["qualities"]} for row in group]
        usual = 2000 if 2000 in sizes else max(sizes)
        lines.append(
            [
                str(stage), str(len(group)), show([row["return"] for row in group], ".0f"),
                *(show([entry[size]["pairwise"] for entry in quality]) for size in sizes),
                show([entry[usual]["true"] for entry in quality]),
                geometric([entry[max(sizes)]["noise_scale"] for entry in quality]),
                show([row["steps"]["qualities"][0]["pairwise"] for row in group]),
            ]
        )  # fmt: skip
    return table(titles, lines)


def geometric(values: Sequence[float]) -> str:
    """Return the geometric mean of positive values, and how many are infinite."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    beyond = f" ({len(values) - len(finite)} infinite)" if len(finite) < len(values) else ""
    return (f"{np.exp(np.mean(np.log(finite))):,.0f}" if finite else "") + beyond


def value_table(rows: Sequence[Row]) -> str:
    """The errors of value prediction by stage, with the columns as released."""
    names = {
        "gae_mre_train": "GAE, train", "gae_mre_held_out": "GAE, held out", "returns_mre_train": "returns, train",
        "returns_mre_held_out": "returns, held out", "ev_value": "EV of V", "ev_target": "EV of GAE targets",
        "released_gae_mre_held_out": "GAE as released", "released_returns_mre_held_out": "returns as released",
    }  # fmt: skip
    lines = []
    for stage, group in by_stage(rows).items():
        found = [row["values"] for row in group if "values" in row]
        cells = [show([mean_of(entry["errors"], name) for entry in found]) for name in names]
        lines.append([str(stage), *cells, show([entry["true_explained_variance"] for entry in found])])
    return table(["iteration", *names.values(), "EV of V*"], lines)


def mean_of(entries: Sequence[Row], name: str) -> float:
    """Return the mean of one name over the finite entries of a list of dicts."""
    values = [entry[name] for entry in entries if math.isfinite(entry[name])]
    return float(np.mean(values)) if values else float("nan")


def baseline_table(rows: Sequence[Row]) -> str:
    """P(N) by baseline and stage."""
    sizes = [entry["pairs"] for entry in rows[0]["values"]["reduction"]["value"]]
    lines = []
    for stage, group in by_stage(rows).items():
        for baseline in BASELINES:
            found = [
                {entry["pairs"]: entry["pairwise"] for entry in row["values"]["reduction"][baseline]} for row in group
            ]
            lines.append([str(stage), baseline, *(show([entry[size] for entry in found]) for size in sizes)])
    return table(["iteration", "baseline", *(f"P({size})" for size in sizes)], lines)


def landscape_table(rows: Sequence[Row]) -> str:
    """What one step promises and what it brings, by stage, over agents and steps."""
    titles = ["iteration", "steps", "step norm", "S few", "S many", "S few / S many", "reward before", "reward gained",
              "S few > 0, reward < 0", "clearly so"]  # fmt: skip
    lines = []
    for stage, group in by_stage(rows).items():
        found = [line for row in group for line in row["lines"]]
        scalars = [line["scalars"] for line in found]

        def agents(name: str, group: Sequence[Row] = group) -> list[float]:  # steps of one agent are not independent
            return [mean_of([line["scalars"] for line in row["lines"]], name) for row in group]

        few, many = agents("surrogate_small"), agents("surrogate_large")
        against = [entry["surrogate_small"] > 0 > entry["reward_gain"] for entry in scalars]
        clearly = [
            bad and entry["reward_gain"] < -2 * entry["reward_gain_se"]
            for bad, entry in zip(against, scalars, strict=True)
        ]
        lines.append(
            [
                str(stage), str(len(found)), show([mean_of(row["lines"], "step_norm") for row in group]),
                show(few, ".3f"), show(many, ".4f"), f"{np.mean(few) / np.mean(many):.1f}",
                show(agents("reward_start"), ".0f"), show(agents("reward_gain"), ".1f"), share(against), share(clearly),
            ]
        )  # fmt: skip
    return table(titles, lines)


def share(events: Sequence[bool]) -> str:
    """Return how many of the events are true, with the exact 95 % binomial interval of the share."""
    low, high = scipy_stats.binomtest(sum(events), len(events)).proportion_ci()
    return f"{sum(events)}/{len(events)} [{low:.2f}, {high:.2f}]"


def claims_table(rows: Sequence[Row]) -> str:
    """Paired comparisons within agents: late against early, V* against V against zero, GAE against returns."""
    groups = by_stage(rows)
    lines: list[list[str]] = []

    def compare(claim: str, both: Sequence[Sequence[float]], test: Callable[..., Interval], form: str) -> None:
        pairs = [(x, y) for x, y in zip(*both, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if len(pairs) > 1:
            found = test([x for x, _ in pairs], [y for _, y in pairs])
            text = f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"
            lines.append([claim, text, f"{found.p:.3f}", str(found.n)])

    first, *later = groups
    for stage in later:
        seeds = sorted({row["seed"] for row in groups[first]} & {row["seed"] for row in groups[stage]})
        scale = [
            [at(groups[each], seed)["gradient"]["qualities"][-1]["noise_scale"] for seed in seeds]
            for each in (stage, first)
        ]
        compare(f"B at iteration {stage} / B at {first}, of those where it is finite", scale, paired_ratio, ".2f")
        # An infinite B (estimates that are not aligned at all) is the strongest case, which a mean cannot take in.
        larger = sum(last > early for last, early in zip(*scale, strict=True))
        unequal = sum(last != early for last, early in zip(*scale, strict=True))
        if unequal:
            p = scipy_stats.binomtest(larger, unequal).pvalue
            claim = f"B at iteration {stage} is larger than at {first} (sign test)"
            lines.append([claim, f"{larger} of {unequal}", f"{p:.3f}", str(unequal)])
    for stage, group in groups.items():
        if not all("values" in row for row in group):
            continue
        mre = [
            [mean_of(row["values"]["errors"], f"{kind}_mre_held_out") for row in group] for kind in ("returns", "gae")
        ]
        compare(f"iteration {stage}: MRE against returns - against GAE", mre, paired_difference, ".3f")
        last = [{name: row["values"]["reduction"][name] for name in BASELINES} for row in group]
        sizes = [entry["pairs"] for entry in last[0]["value"]]
        place = sizes.index(2000) if 2000 in sizes else -1
        for better, worse in (("true", "value"), ("value", "zero")):
            cosines = [[row[name][place]["pairwise"] for row in last] for name in (better, worse)]
            compare(f"iteration {stage}: P({sizes[place]}) with {better} - {worse}", cosines, paired_difference, ".3f")
    return table(["difference or ratio, paired by agent", "mean [95 %]", "p", "agents"], lines) if lines else ""


def at(group: Sequence[Row], seed: int) -> Row:
    """Return the line of one seed."""
    return next(row for row in group if row["seed"] == seed)


def no_baseline_line(rows: Sequence[Row], without: Sequence[Row]) -> str:
    """Compare the return of training episodes with and without a baseline after the same iterations."""
    with_value: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["stage"]):
        with_value.setdefault(row["seed"], []).extend(row["trace"]["train_return"])
    lengths = {row["seed"]: len(row["returns"]) for row in without}
    seeds = [seed for seed, length in lengths.items() if len(with_value.get(seed, [])) >= length]
    if not seeds:
        return ""
    length = min(lengths[seed] for seed in seeds)
    tails = [float(np.mean(with_value[seed][max(0, length - 3) : length])) for seed in seeds]
    bare = [float(np.mean(row["returns"][max(0, length - 3) : length])) for row in without if row["seed"] in seeds]
    text = f"Return of training episodes at iteration {length}: {show(tails, '.0f')} with the value baseline, "
    text += f"{show(bare, '.0f')} without"
    if len(seeds) > 1:
        text += f"; ratio {paired_ratio(tails, bare)} (paired, {len(seeds)} agents)"
    return text + ".\n"


def draw(rows: Sequence[Row], out: Path, name: str) -> None:
    """Write the figures of one task."""
    groups = by_stage(rows)
    labels = {stage: f"iteration {stage}" for stage in groups}
    title = rows[0]["name"]
    qualities = {
        labels[stage]: [q for row in group for q in row["gradient"]["qualities"]] for stage, group in groups.items()
    }
    figures.save(figures.gradient_figure(qualities, title, rows[0]["gradient"]["marker"]), out / f"{name}_gradient.png")
    first = {labels[stage]: group[0]["lines"][0] for stage, group in groups.items()}
    figures.save(figures.line_figure(first, f"{title}, first agent"), out / f"{name}_line.png")
    if all("values" in row for row in rows):
        errors = {
            labels[stage]: [e for row in group for e in row["values"]["errors"]] for stage, group in groups.items()
        }
        figures.save(figures.value_figure(errors, title), out / f"{name}_values.png")
        reduction = {labels[stage]: [row["values"]["reduction"] for row in group] for stage, group in groups.items()}
        figures.save(figures.reduction_figure(reduction, title), out / f"{name}_baselines.png")
    planes = {labels[row["stage"]]: row["plane"] for row in rows if "plane" in row}
    if planes:
        figures.save(figures.surface_figure(planes, f"{title}, first agent"), out / f"{name}_surface.png")
        last = planes[list(planes)[-1]]
        count = len(last["reward"][0][0])
        figures.save(
            figures.concentration_figure(
                last, sorted({1, max(1, count // 3), count}), f"{title}: true reward at {list(planes)[-1]}"
            ),
            out / f"{name}_concentration.png",
        )
