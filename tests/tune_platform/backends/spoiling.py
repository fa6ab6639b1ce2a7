"""A trial that notes how it finds its process, and changes all of that."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any

from tune_platform.trainable import Trainable


def found() -> dict[str, Any]:
    """Return the state of the process, as plain values."""
    import numpy as np
    import torch

    silent: list[str] = []
    with_threads = threading.Thread(target=lambda: silent.append(str(torch.get_num_threads())))
    with_threads.start()
    with_threads.join()
    return {
        "folder": os.getcwd(),  # noqa: PTH109
        "variables": str(sorted((k, v) for k, v in os.environ.items() if k in ("SPOILT", "OMP_NUM_THREADS", "HOME"))),
        "path": str(sys.path[:1]),
        "dtype": str(torch.get_default_dtype()),
        "threads": f"{torch.get_num_threads()} {silent[0]}",
        "grad": torch.is_grad_enabled(),
        "divide": np.geterr()["divide"],
        "root": f"{logging.root.level} {len(logging.root.handlers)}",
        "own": f"{logging.getLogger('spoilt').level} {len(logging.getLogger('spoilt').handlers)}",
        "filters": len([one for one in warnings.filters if one[0] == "error"]),
        "blocked": signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "draws": f"{random.random()} {np.random.rand()} {torch.rand(()).item()}",  # noqa: NPY002
    }


def spoil() -> None:
    """Change all that `found` looks at."""
    import numpy as np
    import torch

    os.chdir("/")
    os.environ.update(SPOILT="1", OMP_NUM_THREADS="7")
    del os.environ["HOME"]
    sys.path.insert(0, "/spoilt")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 2)
    torch.set_grad_enabled(False)
    np.seterr(divide="raise")
    logging.root.setLevel(1)
    for name in ("root", "spoilt"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    logging.root.addHandler(logging.NullHandler())
    logging.getLogger("spoilt").setLevel(1)
    warnings.simplefilter("error")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


class Spoiling(Trainable):
    """Two steps: the first reports what it has found, and spoils it; the second reports what it draws then."""

    def setup(self, config: dict[str, Any]) -> None:
        self.now = 0

    def step(self) -> Mapping[str, Any]:
        self.now += 1
        if self.now == 1:
            seen = found()
            spoil()
            return {"loss": 0.0, "pid": os.getpid(), **seen}
        return {"loss": 0.0, "draw": str(random.random()), "folder": os.getcwd(), "spoilt": os.environ["SPOILT"]}  # noqa: PTH109


def leave_a_process(config: dict[str, Any]) -> dict[str, Any]:
    """A train function that leaves a child behind which ignores SIGTERM."""
    import subprocess

    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{deaf}; print('up', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
    return {"loss": 0.0, "pid": os.getpid(), "child": child.pid}


def leave_a_thread(config: dict[str, Any]) -> dict[str, Any]:
    """A train function that leaves a thread behind where it is told to."""

    def forever() -> None:
        while True:
            time.sleep(0.05)

    if config["x"] == 0.0:
        threading.Thread(target=forever, name="forever", daemon=True).start()
    return {"loss": 0.0, "pid": os.getpid()}
