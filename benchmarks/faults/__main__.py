"""The command."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import faults
from benchmarks.faults.kills import HEADS, KINDS, kill
from benchmarks.faults.record import Record, quantile
from benchmarks.faults.scene import Scene
from benchmarks.faults.search import SEARCHES, drive
from benchmarks.faults.whole import violations
from benchmarks.report import Table

#: Minutes for the short form: kills that have not begun by then are left out, and said.
QUICK_MINUTES = 7.0


def measure(
    kills: Mapping[str, int],
    seed: int,
    say: Callable[[str], None],
    seconds_left: float = math.inf,
    record: Record | None = None,
    searches: Sequence[str] = (),
) -> dict[str, Any]:
    """Make so many kills of each kind, in these searches (none: all); return how many there were, and what was wrong.

    Those that the record has are not made again. What has not begun after `seconds_left`, of which each search has its
    part, is left out.
    """
    record = record or Record(None)
    until = time.monotonic() + seconds_left
    left_out = 0
    draw = random.Random(f"{seed} {len(record.lines)}")
    names = searches or list(SEARCHES)
    for number, name in enumerate(names):
        now = time.monotonic()
        over = now + (until - now) / (len(names) - number)
        todo = [
            kind for kind, count in kills.items() for _ in range(_part(kind, name, count) - record.count(name, kind))
        ]
        draw.shuffle(todo)
        if not todo:
            continue
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
            scene: Scene | None = None
            try:
                scene = Scene(name, Path(folder))
                scene.until("trials", lambda _, count: count > 0)
                for place, kind in enumerate(todo):
                    if time.monotonic() >= over:
                        left_out += len(todo) - place
                        say(f"{name}: {len(todo) - place} kills are left out: the time is up")
                        break
                    _one(scene, kind, draw, record, say)
                record.add(name, "end", None, scene.end() + violations(scene))
            except Exception as error:
                record.add(name, "end", None, [f"{type(error).__name__}: {error}"])
                if scene is not None:
                    scene.abandon()
    return {**record.summary(kills), "left_out": left_out}


def _one(scene: Scene, kind: str, draw: random.Random, record: Record, say: Callable[[str], None]) -> None:
    """Make one kill, and note what came of it."""
    try:
        seconds = kill(scene, kind, draw)
        record.add(scene.name, kind, seconds, violations(scene))
        say(f"{scene.name}: {kind} killed, goes on after {seconds:.1f} s")
    except Exception as error:
        record.add(scene.name, kind, None, [f"{type(error).__name__}: {error}"])
        say(f"{scene.name}: {kind}: {record.lines[-1]['wrong'][0]}")
        scene.revive()  # the next kill needs a search to hit


def _part(kind: str, name: str, count: int) -> int:
    """Ranks are killed in gangs alone; of the others each search has its part, the first ones what is left over."""
    if kind == "rank":
        return count if name == "gang" else 0
    place = list(SEARCHES).index(name)
    return count // len(SEARCHES) + (place < count % len(SEARCHES))


def _kinds(text: str) -> Sequence[str]:
    return _some(text, KINDS)


def _searches(text: str) -> Sequence[str]:
    return _some(text, tuple(SEARCHES))


def _some(text: str, known: Sequence[str]) -> Sequence[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def main() -> None:
    """Run it and print the table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=(faults.__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="5 kills of each kind, two of the head, as far as that takes 7 minutes"
    )
    parser.add_argument("--kills", type=int, help="of each kind  [default: 100, and of the head 10 and 10]")
    parser.add_argument("--minutes", type=float, help="what has not begun by then is left out")
    parser.add_argument("--work", type=Path, metavar="FILE", help="the kills so far: these are not made again")
    parser.add_argument("--searches", type=_searches, default=tuple(SEARCHES), help=f"some of {','.join(SEARCHES)}")
    parser.add_argument("--kinds", type=_kinds, default=KINDS, help=f"some of {','.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, each process compiles all that it imports
    if args.drive:
        drive(*args.drive)
        return
    usual = args.kills or (5 if args.quick else 100)
    kills = {kind: (1 if args.quick else min(usual, 10)) if kind in HEADS else usual for kind in args.kinds}
    minutes = args.minutes or (QUICK_MINUTES if args.quick else math.inf)
    found = measure(kills, args.seed, lambda text: print(text, file=sys.stderr, flush=True), 60 * minutes,
                    Record(args.work), args.searches)  # fmt: skip
    if args.json:
        print(json.dumps(found))
        return
    table = Table("killed", "times", "median s", "p95 s", "longest s")
    for kind, count in found["kills_by_kind"].items():
        times = sorted(found["by_kind"][kind])
        said = [f"{quantile(times, part):.1f}" for part in (0.5, 0.95, 1.0)] if times else ["", "", ""]
        table.add(kind, count, *said)
    table.print()
    print(f"{found['kills']} kills, {found['violations']} violations, {found['left_out']} kills left out")
    for line in found["what"]:
        print(f"  {line}")


if __name__ == "__main__":
    main()
