"""`python -m tune_platform` is `tune-platform`."""

from tune_platform.cli import main

if __name__ == "__main__":
    main(prog_name="tune-platform")
