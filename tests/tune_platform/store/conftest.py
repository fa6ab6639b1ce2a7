"""Stores to test with: a directory, one SQLite file, memory, and PostgreSQL where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_platform.store.sql import SqlStore, open_store

LOCATIONS = ["directory", "file", "memory", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(params=LOCATIONS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("empty_postgresql"))
    return {
        "directory": str(tmp_path / "results"),
        "file": f"sqlite:///{tmp_path / 'all.db'}",
        "memory": "sqlite://",
    }[request.param]


@pytest.fixture
def store(location: str) -> Iterator[SqlStore]:
    """An empty store of each kind."""
    with open_store(location) as opened:
        yield opened
