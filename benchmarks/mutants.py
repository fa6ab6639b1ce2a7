"""Whether the tests notice: small changes of the code that decides, one at a time, against the fast tests.

A mutant is one change of one expression or statement of the engine, the schedulers or the store: a comparison turned, a
bound moved by one, a condition negated, a statement left out. It is killed if a test fails; one that survives is either
no change at all (say so where it is listed) or a rule without a test. Each runs in a copy of the tree, so nothing here
is touched.

    python -m benchmarks.mutants                         # 60 mutants of the engine, at most 15 minutes
    python -m benchmarks.mutants --paths tune_platform/store --count 40 --seed 3
    python -m benchmarks.mutants --quick --json
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATHS = ("tune_platform/engine", "tune_platform/schedulers", "tune_platform/store")
#: What the tests need of the tree.
COPIED = ("tune_platform", "searchers", "trainables", "tests", "benchmarks", "examples", "docs", "pyproject.toml")
#: The fast tests of each part, the likeliest to notice first; those of the whole loop notice most of the rest.
LOOP = ("tests/tune_platform/engine", "tests/tune_platform/backends/test_simulated.py")
TESTS = {
    "engine": LOOP,
    "schedulers": ("tests/tune_platform/schedulers", *LOOP),
    "store": ("tests/tune_platform/store", "tests/tune_platform/test_api.py"),
}
#: Seconds that the tests may take longer than without a change, before a mutant counts as killed by hanging.
PATIENCE = 60.0

_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OTHER: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
#: Calls that say or tidy, and change nothing that a test could see.
_SILENT = ("LOGGER", "_LOG", "warn", "sleep")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: the source text from `begin` to `end` (line from 1, column in bytes) becomes `new`."""

    path: str
    begin: tuple[int, int]
    end: tuple[int, int]
    old: str
    new: str

    def applied(self, source: str) -> str:
        """Return the changed source."""
        lines = source.encode().splitlines(keepends=True)
        head = b"".join(lines[: self.begin[0] - 1]) + lines[self.begin[0] - 1][: self.begin[1]]
        tail = lines[self.end[0] - 1][self.end[1] :] + b"".join(lines[self.end[0] :])
        return (head + self.new.encode() + tail).decode()

    def __str__(self) -> str:
        def short(text: str) -> str:
            return " ".join(text.split())

        return f"{self.path}:{self.begin[0]}: {short(self.old)}  ->  {short(self.new)}"


# ------------------------------------------------------------------------------------------ the changes


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Return every mutant of one file, in the order of the text."""
    found = []
    for node, new in _changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        old = ast.get_source_segment(source, node)
        if old is not None:
            begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
            found.append(Mutant(path, begin, end, old, new))
    return sorted(found, key=lambda mutant: (mutant.begin, mutant.end, mutant.new))


def _changes(tree: ast.Module) -> Iterator[tuple[Any, str]]:
    """Yield nodes and what is to stand in their place."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name not in ("__repr__", "__str__", "check"):
            for statement in function.body:
                yield from _in_statement(statement)


def _in_statement(node: ast.stmt) -> Iterator[tuple[Any, str]]:
    if isinstance(node, (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
        return  # functions within functions are found of themselves
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _is_silent(node.value)
    if called or (isinstance(node, (ast.Assign, ast.AugAssign)) and _is_attribute(node)):
        yield node, "pass"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _in_statement(child)
        elif isinstance(child, ast.expr):
            yield from _in_expression(child)
        elif isinstance(child, (ast.match_case, ast.ExceptHandler)):
            for statement in child.body:
                yield from _in_statement(statement)
            if isinstance(child, ast.match_case) and child.guard is not None:
                yield from _in_expression(child.guard)
                yield child.guard, f"not ({ast.unparse(child.guard)})"
    if isinstance(node, (ast.If, ast.While)):
        yield node.test, f"not ({ast.unparse(node.test)})"


def _in_expression(node: ast.expr) -> Iterator[tuple[Any, str]]:
    if isinstance(node, (ast.JoinedStr, ast.Lambda)) or (isinstance(node, ast.Call) and _is_silent(node)):
        return
    match node:
        case ast.BoolOp(op=operator, values=values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield node, f"({ast.unparse(ast.BoolOp(other, values))})"
            for left in range(len(values)):
                rest = [value for place, value in enumerate(values) if place != left]
                yield node, f"({ast.unparse(ast.BoolOp(operator, rest) if len(rest) > 1 else rest[0])})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.IfExp():
            yield node.test, f"not ({ast.unparse(node.test)})"
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            yield node.func, "max" if name == "min" else "min"
    yield from _of_operands(node)
    for child in ast.iter_child_nodes(node):
        for part in ast.iter_child_nodes(child) if isinstance(child, (ast.keyword, ast.comprehension)) else [child]:
            if isinstance(part, ast.expr):
                yield from _in_expression(part)


def _of_operands(node: ast.expr) -> Iterator[tuple[Any, str]]:
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _TURNED:
            turned = ast.Compare(node.left, [_TURNED[type(operator)]()], node.comparators)
            yield node, f"({ast.unparse(turned)})"
        case ast.BinOp(op=operation) if type(operation) in _OTHER:
            yield node, f"({ast.unparse(ast.BinOp(node.left, _OTHER[type(operation)](), node.right))})"
        case ast.Constant(value=bool() as truth):
            yield node, str(not truth)
        case ast.Constant(value=int() | float() as number):
            yield node, f"({number} + 1)"


def _is_attribute(node: ast.Assign | ast.AugAssign) -> bool:
    """Whether it changes a thing that lives on, so that without it the rest still has all its names."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)


def _is_silent(call: ast.Call) -> bool:
    return any(word in ast.unparse(call.func) for word in _SILENT)


# ------------------------------------------------------------------------------------------ the tests


def stages_of_tests(path: str, tree: Path = ROOT) -> list[list[str]]:
    """Return the tests of one file in the order to run them: its own, which kill most mutants in seconds, then others.

    The longest are last. A stage may be empty.
    """
    part, name = Path(path).parts[1], Path(path).stem.strip("_")
    places = [_files(tree / place) for place in TESTS[part]]
    own = [file for files in places for file in files if file.stem.startswith(f"test_{name}")]
    others = [
        sorted((file for file in files if file not in own), key=lambda file: file.stem == "test_invariants")
        for files in places
    ]
    return [[str(file.relative_to(tree)) for file in stage] for stage in (own, *others)]


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.glob("test_*.py"))


def copy_tree(target: Path) -> None:
    """Copy what the tests need."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, target / name)


def run_tests(tree: Path, tests: Sequence[str], limit: float) -> tuple[str, str]:
    """Run them until the first failure; return passed | failed | hung | broken, and the end of what they said."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--durations=0",
        *tests,
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return "hung", ""
    said = (done.stdout + done.stderr)[-2000:]
    return {0: "passed", 1: "failed", 2: "failed", 4: "failed"}.get(done.returncode, "broken"), said


class Tree:
    """A copy of the tree in which mutants are tried, one after the other."""

    def __init__(self, path: Path) -> None:
        copy_tree(path)
        self.path = path
        self._unchanged: dict[frozenset[str], float] = {}

    def check(self, mutant: Mutant) -> str:
        """Return what became of a mutant, as `run_tests` says it. Raises SystemExit where tests fail without it."""
        file = self.path / mutant.path
        source = file.read_text(encoding="utf-8")
        for tests in filter(None, stages_of_tests(mutant.path, self.path)):
            limit = 2 * self._seconds(tests) + PATIENCE
            file.write_text(mutant.applied(source), encoding="utf-8")
            try:
                result, _ = run_tests(self.path, tests, limit)
            finally:
                file.write_text(source, encoding="utf-8")
            if result != "passed":
                return result
        return "passed"

    def _seconds(self, tests: Sequence[str]) -> float:
        """Return the seconds that tests take without a change."""
        if (key := frozenset(tests)) not in self._unchanged:
            began = time.monotonic()
            result, said = run_tests(self.path, tests, 900.0)
            if result != "passed":
                raise SystemExit(f"these tests fail without a change: {' '.join(tests)}\n{said}")
            self._unchanged[key] = time.monotonic() - began
        return self._unchanged[key]


def check_each(mutants: Sequence[Mutant], *, jobs: int, seconds: float, show: bool) -> list[tuple[Mutant, str]]:
    """Run the tests on each mutant that there is time for; return it with what became of it."""
    todo: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in mutants:
        todo.put(mutant)
    found: list[tuple[Mutant, str]] = []
    lock, end = threading.Lock(), time.monotonic() + seconds

    def work(tree: Tree) -> None:
        while time.monotonic() < end:
            try:
                mutant = todo.get_nowait()
            except queue.Empty:
                return
            result = tree.check(mutant)
            with lock:
                found.append((mutant, result))
                if show:
                    print(f"{result:7} {mutant}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        trees = [Tree(Path(folder, str(number))) for number in range(jobs)]
        threads = [threading.Thread(target=work, args=(tree,)) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def main() -> None:
    """Parse the command line, change, test, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="four mutants, in a few minutes at most")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--paths", nargs="+", default=["tune_platform/engine"], help=f"files or folders of {PATHS}")
    parser.add_argument("--count", type=int, default=60, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=900.0, help="begin none after that time")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    parser.add_argument("--list", action="store_true", help="print the mutants drawn, and run nothing")
    options = parser.parse_args()
    files = [file for path in options.paths for file in _sources(ROOT / path)]
    every = [mutant for file in files for mutant in mutants_of(str(file.relative_to(ROOT)), file.read_text("utf-8"))]
    count = 4 if options.quick else options.count
    drawn = random.Random(options.seed).sample(every, min(count, len(every)))
    if options.list:
        print("\n".join(map(str, drawn)))
        return
    begin = time.monotonic()
    found = check_each(
        drawn, jobs=options.jobs, seconds=120.0 if options.quick else options.seconds, show=not options.json
    )
    by = {result: sorted(str(m) for m, r in found if r == result) for result in ("passed", "failed", "hung", "broken")}
    figures = {
        "possible": len(every),
        "run": len(found),
        "killed": len(by["failed"]),
        "hung": len(by["hung"]),
        "broken": len(by["broken"]),
        "survived": by["passed"],
        "seconds": round(time.monotonic() - begin, 1),
    }
    print(f"{figures['run']} of {figures['possible']} mutants: {figures['killed']} killed, {figures['hung']} hung, "
          f"{len(by['passed'])} survived")  # fmt: skip
    for line in by["passed"]:
        print(f"  survived: {line}")
    if options.json:
        print(json.dumps(figures))


def _sources(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(file for file in place.glob("*.py") if file.name != "__init__.py")


if __name__ == "__main__":
    main()
