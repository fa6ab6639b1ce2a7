"""Jobs of a Ray that is elsewhere: its dashboard takes a folder and a command, and runs that on the head node.

Ray: "Ray Jobs API", `ray.job_submission.JobSubmissionClient`.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from tune_platform.errors import ExperimentError, SpecError

#: Seconds for the dashboard's first answer; Ray's own client would wait for minutes.
ANSWERS_WITHIN = 5.0
_PERIOD = 0.5


class Client(Protocol):
    """What is used of Ray's client."""

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        """Ship what the environment names and start the command; return the id of the job."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Yield what the job prints, until it ends."""

    def get_job_info(self, job_id: str) -> Any:
        """Return its `status`, `message` and `driver_exit_code`."""


class Ending(NamedTuple):
    """How a job ended: the exit code of its command, 1 where it has none, and Ray's words."""

    code: int
    status: str
    message: str


def check_dashboard(address: str, seconds: float = ANSWERS_WITHIN) -> str:
    """Return the address of a dashboard that answers.

    Raises SpecError for what is no address of one, and ExperimentError with the reason where nothing answers.
    """
    found = address.strip().rstrip("/")
    allowed = "that of the head node's dashboard is wanted, such as http://10.0.0.5:8265"
    try:
        parts = urlsplit(found)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise SpecError(f"--address: got {address!r}; {allowed}")
    try:
        urllib.request.urlopen(f"{found}/api/version", timeout=seconds).close()
    except urllib.error.HTTPError:
        pass  # something is there; what it wants, Ray's client says
    except OSError as error:
        reason = getattr(error, "reason", error)
        text = (
            f"within {seconds:g} s"
            if isinstance(reason, TimeoutError)
            else f"({getattr(reason, 'strerror', '') or reason})"
        )
        raise ExperimentError(f"no dashboard of Ray answers at {found} {text}; {allowed}") from None
    except Exception as error:  # what answers speaks no HTTP
        raise ExperimentError(f"what answers at {found} is no dashboard of Ray ({error!r}); {allowed}") from None
    return found


def connect(address: str) -> Client:
    """Return Ray's client for a dashboard. Raises ExperimentError with the reason where it will not have us."""
    from ray.job_submission import JobSubmissionClient

    os.environ["RAY_API_SERVER_ADDRESS"] = address  # that and RAY_ADDRESS would win over the argument
    try:
        client: Client = JobSubmissionClient(address)
    except Exception as error:
        raise _refused(address, error) from None
    return client


def submit(client: Client, address: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> str:
    """Start a job and return its id. Raises ExperimentError with the reason where that is refused."""
    try:
        return client.submit_job(entrypoint=entrypoint, runtime_env=dict(runtime_env))
    except Exception as error:
        raise _refused(address, error) from None


def follow(client: Client, job: str, say: Callable[[str], None], pause: Callable[[float], None] = time.sleep) -> Ending:
    """Say what a job prints until it ends. Raises ExperimentError where the connection is lost; the job goes on."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            say(text)

    try:
        asyncio.run(tail())
        while (info := client.get_job_info(job)).status not in ("SUCCEEDED", "FAILED", "STOPPED"):
            pause(_PERIOD)  # its log ends a little before
    except BrokenPipeError:
        raise
    except Exception as error:
        raise ExperimentError(f"lost sight of job {job}, which goes on: {_line(error)}") from None
    code = info.driver_exit_code
    status = str(getattr(info.status, "value", info.status))
    if code is None:
        code = 0 if status == "SUCCEEDED" else 1
    return Ending(128 - code if code < 0 else code, status, str(info.message or ""))


def _refused(address: str, error: Exception) -> ExperimentError:
    return ExperimentError(f"the Ray at {address} does not take the job: {_line(error)}")


def _line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
