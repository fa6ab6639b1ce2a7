"""The engine's tests run on the virtual clock alone."""

from __future__ import annotations

import pytest

from tune_platform.engine import runner


@pytest.fixture(autouse=True)
def _no_inbox_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the inbox in each turn, so that virtual runs do not depend on the wall clock."""
    monkeypatch.setattr(runner, "INBOX_PERIOD", 0.0)
