"""Studies that re-test what the papers claim, in shape, on two cores: `python -m benchmarks.studies.<name>`."""
