"""The command line: each command parses its arguments, calls the API and prints. `docs/cli.md` is its page.

stdout carries data, stderr carries talk. Nothing heavy is imported before a command needs it.
"""

from tune_platform.cli.app import main

__all__ = ["main"]
