"""What the studies of all systems share: results that are resumed, tables, claims with their verdicts."""
