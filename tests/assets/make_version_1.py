"""Writes `version_1/old/experiment.db`: an experiment as schema version 1 left it; run once.

The statements are a frozen copy of version 1 and do not follow the code.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

TABLES = """
CREATE TABLE meta (schema_version INTEGER NOT NULL);
CREATE TABLE experiments (
    id INTEGER NOT NULL, name TEXT NOT NULL, spec TEXT DEFAULT '' NOT NULL, status TEXT DEFAULT '' NOT NULL,
    reason TEXT DEFAULT '' NOT NULL, created DOUBLE NOT NULL, heartbeat DOUBLE NOT NULL,
    driver TEXT DEFAULT '' NOT NULL, PRIMARY KEY (id), UNIQUE (name));
CREATE TABLE log (
    experiment BIGINT NOT NULL, seq BIGINT NOT NULL, time DOUBLE NOT NULL, kind TEXT DEFAULT '' NOT NULL,
    trial BIGINT, data TEXT DEFAULT '' NOT NULL, PRIMARY KEY (experiment, seq)) WITHOUT ROWID;
CREATE TABLE reports (
    experiment BIGINT NOT NULL, trial BIGINT NOT NULL, step BIGINT NOT NULL, seq BIGINT NOT NULL,
    time DOUBLE NOT NULL, metrics TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (experiment, trial, step)) WITHOUT ROWID;
CREATE TABLE trials (
    experiment BIGINT NOT NULL, trial BIGINT NOT NULL, status TEXT DEFAULT '' NOT NULL,
    config TEXT DEFAULT '' NOT NULL, reason TEXT DEFAULT '' NOT NULL, origin TEXT DEFAULT '' NOT NULL,
    attempt BIGINT NOT NULL, step BIGINT NOT NULL, metrics TEXT DEFAULT '' NOT NULL, best DOUBLE,
    best_step BIGINT, error TEXT DEFAULT '' NOT NULL, created DOUBLE NOT NULL, started DOUBLE, ended DOUBLE,
    PRIMARY KEY (experiment, trial)) WITHOUT ROWID;
CREATE INDEX trials_by_status ON trials (experiment, status);
CREATE TABLE checkpoints (
    experiment BIGINT NOT NULL, trial BIGINT NOT NULL, uri TEXT NOT NULL, step BIGINT NOT NULL,
    bytes BIGINT NOT NULL, deleted BOOLEAN NOT NULL, PRIMARY KEY (experiment, trial, uri)) WITHOUT ROWID;
CREATE TABLE requests (
    experiment BIGINT NOT NULL, id BIGINT NOT NULL, time DOUBLE NOT NULL, action TEXT DEFAULT '' NOT NULL,
    trial BIGINT, data TEXT DEFAULT '' NOT NULL, PRIMARY KEY (experiment, id)) WITHOUT ROWID;
"""

ROWS = """
INSERT INTO meta VALUES (1);
INSERT INTO experiments VALUES (1, 'old', '{"metric":"loss"}', 'finished', 'all done', 1.0, 9.0, 'host:1');
INSERT INTO log VALUES (1, 1, 1.0, 'suggested', 0, '{"config":{"lr":0.1}}');
INSERT INTO log VALUES (1, 2, 2.0, 'reported', 0, '{"first":1,"last":2}');
INSERT INTO reports VALUES (1, 0, 1, 2, 1.5, '{"loss":NaN}'), (1, 0, 2, 2, 2.0, '{"loss":0.5}');
INSERT INTO trials VALUES
    (1, 0, 'COMPLETED', '{"lr":0.1}', 'ended', 'searcher', 0, 2, '{"loss":0.5}', 0.5, 2, '', 1.0, 1.1, 2.0);
INSERT INTO checkpoints VALUES (1, 0, 'memory://c/trial-00000/step-00000002-a0', 2, 10, 0);
INSERT INTO requests VALUES (1, 1, 1.5, 'stop', 0, '{}');
"""


def write(path: Path) -> None:
    """Write the database at `path`, which must not exist."""
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size = 512")  # keeps the file small
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(TABLES + ROWS)
    connection.close()


if __name__ == "__main__":
    write(Path(__file__).parent / "version_1" / "old" / "experiment.db")
