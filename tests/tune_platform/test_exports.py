"""What `import tune_platform` gives, and what it does not load."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tune_platform


def test_all_names_are_there() -> None:
    assert len(set(tune_platform.__all__)) == len(tune_platform.__all__)
    for name in tune_platform.__all__:
        assert getattr(tune_platform, name) is not None
    assert set(tune_platform.__all__) <= set(dir(tune_platform))


def test_all_is_sorted_and_is_what_is_loaded_on_first_use() -> None:
    # As ruff sorts it: constants, then classes, then functions.
    def rank(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert tune_platform.__all__ == sorted(tune_platform.__all__, key=rank)
    assert set(tune_platform.__all__) == set(tune_platform._MODULE)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(tune_platform.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(tune_platform.__all__)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tune'"):
        tune_platform.tune  # noqa: B018
