"""Train the best configuration of a search for the hidden classes, and show what came of it.

    tune-platform best zero-label --as json | python -m tune_platform.trainables.zero_label.final --out final

The search has chosen on classes that only play the unseen; here they are trained on like all seen classes, and the test
images are judged. Prints a table of each round, and writes a picture of the pseudo-labels after each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_platform.trainable import DONE, TrialContext
from tune_platform.trainables.zero_label.pictures import draw_filter
from tune_platform.trainables.zero_label.trainable import ZeroLabelTrainable

_COLUMNS = ("round", "test_seen_miou", "test_unseen_miou", "test_hm", "coverage", "hidden_precision", "images_per_s")


def final(config: Mapping[str, Any], seed: int, out: Path, resources: Mapping[str, float]) -> list[dict[str, Any]]:
    """Train `config` in the final stage, whatever stage it names, and return the metrics of each round."""
    trainable = ZeroLabelTrainable(TrialContext(seed=seed, resources=resources))
    trainable.setup({**config, "stage": "final", "pictures": False})
    rows: list[dict[str, Any]] = []
    sys.stdout.write("  ".join(f"{name:>16}" for name in _COLUMNS) + "\n")
    while not rows or not rows[-1][DONE]:
        rows.append(trainable.step())
        sys.stdout.write("  ".join(_cell(rows[-1].get(name)) for name in _COLUMNS) + "\n")
        sys.stdout.flush()
        draw_filter(trainable.training, trainable.data, out / f"filter_after_round_{rows[-1]['round']}.png", seed)
    sys.stdout.write(f"pictures: {out}\n")
    return rows


def _cell(value: Any) -> str:
    return f"{'' if value is None else value if isinstance(value, int) else format(value, '.3f'):>16}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a configuration as JSON from a file or stdin, and train it."""
    parser = argparse.ArgumentParser(
        prog="python -m tune_platform.trainables.zero_label.final", description=__doc__.splitlines()[0]
    )
    parser.add_argument("config", nargs="?", help="file with the configuration as JSON (stdin)")
    parser.add_argument("--out", type=Path, default=Path("zero_label_final"), help="folder of the pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (0)")
    parser.add_argument("--cpus", type=int, default=1, help="threads (1)")
    parser.add_argument("--gpu", action="store_true", help="train on the GPU")
    options = parser.parse_args(arguments)
    text = Path(options.config).read_text() if options.config else sys.stdin.read()
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        parser.error(f"the configuration is not JSON ({error}); see `tune-platform best EXPERIMENT --as json`")
    final(config, options.seed, options.out, {"cpu": options.cpus, "gpu": float(options.gpu)})


if __name__ == "__main__":
    main()
