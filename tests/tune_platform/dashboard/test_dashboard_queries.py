"""What the page reads again and again, it reads by an index: no query walks through the reports or the log."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.dashboard.conftest import trial_row
from tune_platform.dashboard.source import Source
from tune_platform.store.database import Database
from tune_platform.store.records import LogRow
from tune_platform.store.sql import FILE_NAME, open_store


def test_a_look_for_news_uses_indexes(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(str(storage))
    before = source.picture("small").view.revision
    with open_store(storage) as store, store.open("small") as experiment:
        row = LogRow(before + 1, 200.0, "moved", 4, {"status": "STOPPED", "reason": "rung 1"})
        experiment.append([row], (), [trial_row(4, "STOPPED", reason="rung 1")])
    asked: list[tuple[Any, tuple[Any, ...]]] = []
    fetch = Database.fetch

    def noted(self: Database, statement: Any, *values: Any) -> Any:
        asked.append((statement, values))
        return fetch(self, statement, *values)

    monkeypatch.setattr(Database, "fetch", noted)
    assert source.picture("small").view.revision == before + 1
    from sqlalchemy.dialects import sqlite

    plans = []
    with closing(sqlite3.connect(storage / "small" / FILE_NAME)) as database:
        for statement, values in asked:
            text = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True}))
            count = text.count("?")
            given = [*values, *[1] * count][:count]
            plans += [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}", given)]
    assert any("log" in plan for plan in plans)
    assert [plan for plan in plans if plan.startswith("SCAN") and ("reports" in plan or "log" in plan)] == []
