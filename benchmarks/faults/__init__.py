"""Kills parts of a running search, and looks whether the store holds what it should after each, and how long it took.

Three nodes of Ray on this machine run a search that has no end of its own; drivers, workers, raylets and nodes are
processes that are killed by SIGKILL at random moments:

- driver: another one takes over at once;
- worker: the process of a trial; rank: one of a gang's that does not speak for it, while they add up numbers at each
  step;
- raylet, node: with all that runs there; another node takes its place;
- gcs: the head for good, so that the cluster is lost: the driver has to end by itself and say so, and another one goes
  on in a new cluster;
- gcs_back: the head, which is back after some seconds with what its store has kept (Ray's own RocksDB): the same driver
  has to go on.

After each kill the log is read as `doctor` reads it, and each trial's reports have to be 1, 2, 3 ... and follow from
one another, across checkpoints and attempts; at the end no trial may have failed and all must have ended. The recovery
is the time until those that were hit have reported again (driver, gcs: until anybody has; rank: with another one in its
place). A kill that hit only trials which had just ended counts as one, and has no such time.

The long form takes hours. With `--work FILE` each kill is a line of that file, and those that it has are not made
again; `--minutes` makes a piece of it, and `--searches` of one search alone.

    python -m benchmarks.faults
    python -m benchmarks.faults --quick --json
    python -m benchmarks.faults --work docs/figures/faults.jsonl --minutes 5
"""
