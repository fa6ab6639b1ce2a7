"""Results of a study, kept by their inputs: what is there is not measured again, what is cut short goes on.

A line of the file is one measurement, `{"inputs": {...}, "found": {...}}`. Inputs are all that the measurement depends
on (the task, the method, the seed, the numbers of the training): change one, and it is another measurement.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

Inputs = Mapping[str, Any]
Found = Mapping[str, Any]


class Results:
    """The measurements in one file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # The last line may be half of one, of a study that was killed as it wrote: the next one begins on its own.
        self._torn = bool(text) and not text.endswith("\n")
        lines = text.splitlines()[: -1 if self._torn else None]
        self._lines: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        for line in lines:
            row = json.loads(line)
            self._lines[_key(row["inputs"])] = (row["inputs"], row["found"])

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, inputs: Inputs) -> bool:
        return _key(inputs) in self._lines

    def found(self, inputs: Inputs) -> dict[str, Any]:
        """Return what was measured. Raises KeyError where it was not."""
        return self._lines[_key(inputs)][1]

    def add(self, inputs: Inputs, found: Found) -> None:
        """Write a measurement down, its numbers to six digits; those that are not finite as Python's JSON has them."""
        row = _plain({"inputs": inputs, "found": found})
        self._lines[_key(row["inputs"])] = (row["inputs"], row["found"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._torn:
            whole = self.path.read_text(encoding="utf-8").rpartition("\n")[0]
            self.path.write_text(whole + "\n" if whole else "", encoding="utf-8")
            self._torn = False
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self, **inputs: Any) -> list[dict[str, Any]]:
        """Return the measurements with these inputs, inputs and findings in one dict each, by seed."""
        chosen = [
            {**given, **found}
            for given, found in self._lines.values()
            if all(given.get(name) == value for name, value in inputs.items())
        ]
        return sorted(chosen, key=lambda row: int(row.get("seed", 0)))


def measure(
    jobs: Sequence[Inputs],
    work: Callable[[Inputs], Found],
    results: Results,
    *,
    processes: int = 1,
    say: Callable[[str], None] | None = None,
) -> Results:
    """Measure the jobs that `results` does not have, in their order, and write each down as it is done; return them.

    With `processes` above 1, `work` has to be a function of a module: each runs with one thread. The first error ends
    the study; what was done before it is kept.
    """
    say = say or _say
    left = [job for job in jobs if job not in results]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} are there already")

    def done(number: int, job: Inputs, found: Found) -> None:
        results.add(job, found)
        named = (f"{name} {value}" for name, value in job.items() if not isinstance(value, Mapping))
        say(f"{number} of {len(left)}: " + ", ".join(named))

    if processes == 1:
        for number, job in enumerate(left, start=1):
            done(number, job, work(job))
        return results
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(work, job): job for job in left}
        try:
            for number, future in enumerate(as_completed(waiting), start=1):
                done(number, waiting[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _key(inputs: Inputs) -> str:
    return json.dumps(_plain(inputs), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
