"""A program of its own that asks what listens at host:port whether this process could join it as a Ray.

    python -P ray_probe.py host:port seconds found

Ray's client waits for a cluster inside native code, for minutes, where neither a signal nor a thread reaches it; a
process can be given up at any moment. It writes two lines: whether whoever reaches it can join it ("open") or only who
has its token ("guarded"), and what Ray said against it, nothing where all is well. The seconds count from when Ray is
imported; after them SIGALRM ends the process. `found`: 1 where nobody has named the address; then a token that is there
is shown without RAY_AUTH_MODE, as Ray itself does.
"""

import json
import os
import signal
import sys
from typing import Any

MODE = "RAY_AUTH_MODE"


def main(address: str, seconds: float, found: bool) -> tuple[str, str]:
    """Return the two lines."""
    wanted = os.environ.get(MODE, "token" if found else "").lower()
    os.environ[MODE] = "disabled"  # first without
    import ray

    signal.alarm(max(1, round(seconds)))  # what it does is the system's: it works in native code too
    said = ask(ray, address)
    if "AuthToken" not in said:
        return "open", said
    if wanted == "token":
        os.environ[MODE] = wanted
        ray._raylet.Config.initialize("")  # it keeps what it has read
        if ray._raylet.AuthenticationTokenLoader.instance().has_token():
            said = ask(ray, address)
    return "guarded", said


def ask(ray: Any, address: str) -> str:
    """Return why this process could not join the Ray there; nothing if it could."""
    try:
        found = ray._raylet.GcsClient(address=address).internal_kv_get(b"CLUSTER_METADATA", b"cluster")
        if found:
            ray._private.utils.check_version_info(json.loads(found), "the driver's node")
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


if __name__ == "__main__":
    sys.stdout.write("\n".join(main(sys.argv[1], float(sys.argv[2]), sys.argv[3] == "1")) + "\n")
    sys.stdout.flush()
    os._exit(0)  # Ray's own threads may want to wait
