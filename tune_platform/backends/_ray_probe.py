"""A program of its own that asks what listens at host:port whether this process could join it as a Ray.

    python -P _ray_probe.py host:port seconds

Ray's client waits for a cluster inside native code, for minutes, where neither a signal nor a thread reaches it; a
process can be given up at any moment. It writes one line: nothing where all is well, else what Ray said. The seconds
count from when Ray is imported; after them SIGALRM ends the process.
"""

import json
import os
import signal
import sys

import ray


def ask(address: str) -> str:
    """Return why this process could not join the Ray there; nothing if it could."""
    try:
        found = ray._raylet.GcsClient(address=address).internal_kv_get(b"CLUSTER_METADATA", b"cluster")
        if found:
            ray._private.utils.check_version_info(json.loads(found), "the driver's node")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    signal.alarm(max(1, round(float(sys.argv[2]))))  # what it does is the system's: it works in native code too
    said = ask(sys.argv[1])
    sys.stdout.write(" ".join(said.split()) + "\n")
    sys.stdout.flush()
    os._exit(0)  # Ray's own threads may want to wait
