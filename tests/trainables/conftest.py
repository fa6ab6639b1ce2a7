"""A cache of its own for each test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test notes is not known to the next."""
    monkeypatch.setenv("TUNE_PLATFORM_CACHE", str(tmp_path_factory.mktemp("cache")))
