"""How commands show configs that were tried several times: with the mean, the spread and the number of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tune_platform.cli.common import talk
from tune_platform.cli.format import fit, table, width
from tune_platform.progress.text import number
from tune_platform.protocol.configs import shown

if TYPE_CHECKING:
    from tune_platform.results import ConfigResult, Results
    from tune_platform.results.core import Scope


def best_config(
    results: Results, scope: Scope = "best", metric: str | None = None, mode: str | None = None
) -> ConfigResult | None:
    """Return the best config where configs are repeated, and one has a value; else None."""
    found = results.configs(scope, metric, mode) if results.replicates > 1 else []
    return found[0] if found and found[0].mean is not None else None


def mean_text(config: ConfigResult, metric: str) -> str:
    """Return "loss 0.12 +- 0.01, the mean of 3 trials (4, 7, 9)"."""
    spread = "" if config.spread is None else f" +- {number(config.spread)}"
    of = ", ".join(str(trial.number) for trial in config.trials if trial.best is not None)
    trials = "1 trial" if config.count == 1 else f"{config.count} trials"
    return f"{metric} {number(config.mean)}{spread}, the mean of {trials} ({of})"


def config_json(config: ConfigResult) -> dict[str, Any]:
    """Return a config in the form that `--json` prints."""
    return {
        "config": shown(config.config),
        "mean": config.mean,
        "spread": config.spread,
        "count": config.count,
        "trials": [trial.number for trial in config.trials],
    }


def configs_table(results: Results, limit: int) -> str:
    """Return the configs, best first, as a table; `limit` 0 shows all. What all have in common is left out."""
    from tune_platform.results import flatten

    configs = results.configs()
    picked = configs[: limit or None]
    flat = [flatten(shown(each.config)) for each in picked]
    names = list(dict.fromkeys(name for config in flat for name in config))
    if len(picked) > 1:
        names = [name for name in names if len({repr(config.get(name)) for config in flat}) > 1]
    head = ["rank", f"mean {results.metric}".strip(), "spread", "of", "trials", *names]
    rows = [
        [str(rank), number(each.mean), number(each.spread), str(each.count)]
        + [" ".join(str(trial.number) for trial in each.trials)]
        + [number(config.get(name)) for name in names]
        for rank, (each, config) in enumerate(zip(picked, flat, strict=True), 1)
    ]
    kept = fit(head, rows, (4, 2, 3, *range(5, len(head))), width())
    if len(picked) < len(configs):
        talk(f"{len(picked)} of {len(configs)} configs are shown; --limit 0 shows all")
    return table([head[index] for index in kept], [[row[index] for index in kept] for row in rows], width())
