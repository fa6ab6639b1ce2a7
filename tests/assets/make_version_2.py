"""Writes `version_2/old/experiment.db`: the same experiment as schema version 2 left it; run once,
by `python -m tests.assets.make_version_2`.

The statements are a frozen copy and do not follow the code.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.assets.make_version_1 import write

CHANGES = """
ALTER TABLE trials ADD COLUMN worker TEXT NOT NULL DEFAULT '';
CREATE INDEX reports_by_seq ON reports (experiment, seq);
UPDATE meta SET schema_version = 2;
"""

if __name__ == "__main__":
    path = Path(__file__).parent / "version_2" / "old" / "experiment.db"
    write(path)
    connection = sqlite3.connect(path)
    connection.executescript(CHANGES)
    connection.execute("VACUUM")
    connection.close()
