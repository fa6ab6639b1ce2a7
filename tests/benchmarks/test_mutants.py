"""The changes that `benchmarks.mutants` makes."""

from __future__ import annotations

import ast

import pytest

from benchmarks.mutants import PATHS, ROOT, mutants_of, stages_of_tests

SOURCE = '''
def f(a, b, *, c=1):
    """Not this 1 > 2."""
    if a < b and not c:
        raise ValueError(f"{a + 1}")
    LOGGER.warning("x %d", 1 + 1)
    a.x = min(a, 2)
    b.append(True)
    return a if b else c + 1
'''


def test_the_changes() -> None:
    assert [(mutant.old, mutant.new) for mutant in mutants_of("m.py", SOURCE)] == [
        ("a < b", "(a <= b)"),
        ("a < b and not c", "(a < b or not c)"),
        ("a < b and not c", "(a < b)"),
        ("a < b and not c", "(not c)"),
        ("a < b and not c", "not (a < b and (not c))"),
        ("not c", "(c)"),
        ("a.x = min(a, 2)", "pass"),
        ("min", "max"),
        ("2", "(2 + 1)"),
        ("b.append(True)", "pass"),
        ("True", "False"),
        ("b", "not (b)"),
        ("c + 1", "(c - 1)"),
        ("1", "(1 + 1)"),
    ]


@pytest.mark.parametrize("folder", PATHS)
def test_every_mutant_is_a_change_that_python_takes(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        source = path.read_text("utf-8")
        found = mutants_of(str(path.relative_to(ROOT)), source)
        for mutant in found[::7]:
            changed = mutant.applied(source)
            assert changed != source
            assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutant


def test_a_files_own_tests_come_first() -> None:
    assert stages_of_tests("tune_platform/engine/snapshot.py")[0] == ["tests/tune_platform/engine/test_snapshot.py"]
    assert stages_of_tests("tune_platform/engine/state.py")[1][-1] == "tests/tune_platform/engine/test_invariants.py"
    assert stages_of_tests("tune_platform/store/lease.py")[0] == ["tests/tune_platform/store/test_lease.py"]
    assert stages_of_tests("tune_platform/store/_checkpoint_files.py")[0] == []
