"""The dashboard beside a run: in a process of its own, which the run neither waits for nor suffers from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tune_platform.extras import require
from tune_platform.location import VARIABLE, Location


def start_dashboard(name: str, storage: str) -> str:
    """Start the page of an experiment, which ends with this process; return its address. Nobody waits for it.

    Raises MissingLibraryError where the extra `dashboard` is not installed.
    """
    require("the dashboard", "dash", "dash_ag_grid", "dash_mantine_components", "plotly")
    with socket.create_server(("127.0.0.1", 0)) as listening:  # who opens the page at once waits, and is not refused
        port = listening.getsockname()[1]
        command = [sys.executable, "-m", "tune_platform", "dashboard", name]
        subprocess.Popen(
            [*command, "--listening", str(listening.fileno()), "--beside", str(os.getpid())],
            env={**os.environ, VARIABLE: Location(storage).unmasked},  # a URL may hold a password: not an argument
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(listening.fileno(),),
            # Ctrl-C is for the run. In a session of its own its lower priority would not count against the run's: Linux
            # shares the processors among sessions first.
            process_group=0,
        )
    return f"http://127.0.0.1:{port}/e/{name}"
