"""What was killed and what came of it, a line each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class Record:
    """What was made and found: a line for each kill and for each end of a search, in a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, search: str, kind: str, seconds: float | None, wrong: Sequence[str]) -> None:
        """Note one; `seconds` is None where nobody had to go on."""
        rounded = None if seconds is None or math.isnan(seconds) else round(seconds, 2)
        self.lines.append({"search": search, "kind": kind, "seconds": rounded, "wrong": list(wrong)})
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(self.lines[-1]) + "\n")

    def count(self, search: str, kind: str) -> int:
        """Return how many there are of a kind, of one search."""
        return sum((line["search"], line["kind"]) == (search, kind) for line in self.lines)

    def summary(self, kinds: Iterable[str]) -> dict[str, Any]:
        """Return how many kills there were, what was wrong, and how long it took."""
        by_kind = {kind: [line for line in self.lines if line["kind"] == kind] for kind in kinds}
        seconds = {
            kind: [one["seconds"] for one in made if one["seconds"] is not None] for kind, made in by_kind.items()
        }
        every = sorted(one for times in seconds.values() for one in times)
        wrong = [f"{line['search']}, {line['kind']}: {each}" for line in self.lines for each in line["wrong"]]
        return {
            "kills": sum(map(len, by_kind.values())),
            "violations": len(wrong),
            "recovery_median_s": quantile(every, 0.5),
            "recovery_p95_s": quantile(every, 0.95),
            "kills_by_kind": {kind: len(made) for kind, made in by_kind.items()},
            "by_kind": seconds,
            "what": wrong,
        }


def quantile(ordered: Sequence[float], part: float) -> float | None:
    """Return the value below which that part of them lies; None of none."""
    return round(ordered[int(part * (len(ordered) - 1))], 2) if ordered else None
