"""The store: an append-only log with its projections, in SQLite or PostgreSQL, and checkpoints on fsspec paths."""
