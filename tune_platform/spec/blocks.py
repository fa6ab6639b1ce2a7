"""Blocks of a spec that are the same in Python and in a file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.extras import how_to_install_driver
from tune_platform.location import Location
from tune_platform.spec.values import Above, Amount, Count, Moment, Natural, Number, Seconds, Strict, describe


class Cost(Strict):
    """A limit of what a search may cost, and the prices of an hour of one GPU and of one CPU, in any currency."""

    limit: Above
    gpu: Amount = 0.0
    cpu: Amount = 0.0

    @model_validator(mode="after")
    def _something_costs(self) -> Cost:
        if not self.gpu and not self.cpu:
            raise SpecError("no price is given: gpu or cpu, or both, say what an hour of one costs")
        return self


class Budget(Strict):
    """When the search ends, whichever comes first; None is no limit.

    `trials`: started at all; `time`: seconds, a timedelta, or text such as "6h"; `deadline`: a date with a time;
    `gpu_hours`: hours of one GPU that trials hold; `cost`: see `Cost`; `target`: a value of the metric;
    `failures`: more failed trials than this end the search as failed. None: so does the same error in all of the
    first trials (3, or as many as run at a time).
    """

    trials: Count | None = None
    time: Seconds | None = None
    deadline: Moment | None = None
    gpu_hours: Above | None = None
    cost: Cost | None = None
    target: Number | None = None
    failures: Natural | None = None

    if TYPE_CHECKING:  # a duration may be text, which the field never is

        def __init__(
            self,
            *,
            trials: int | None = None,
            time: float | str | timedelta | None = None,
            deadline: str | datetime | None = None,
            gpu_hours: float | None = None,
            cost: Cost | Mapping[str, float] | None = None,
            target: float | None = None,
            failures: int | None = None,
        ) -> None: ...


def _known_storage(value: str | None) -> str | None:
    """Refuse what fsspec has no file system for; whether its driver is installed is seen by `check`."""
    if value is not None and "://" in value:
        from fsspec import available_protocols

        protocol = value.partition("://")[0].rpartition("::")[2]
        if protocol not in (known := available_protocols()):
            shown = describe(str(Location(value)))
            raise SpecError(
                f"got {shown}; fsspec knows no {protocol}://{did_you_mean(protocol, known)}: "
                "a directory, or a path such as s3://bucket/folder, is wanted"
            )
    return value


def check_driver(storage: str | None) -> None:
    """Raise SpecError where what fsspec needs for a path is not installed, or where the path holds a key."""
    if storage is not None and "://" in storage:
        if (place := Location(storage)).has_secret:
            raise SpecError(
                f"got {str(place)!r}; a key in it would be stored with each checkpoint's place, for all who read the "
                "results. Leave it out, and give it where the file system looks by itself: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY for s3, GOOGLE_APPLICATION_CREDENTIALS for gs, for any "
                "FSSPEC_FTP_PASSWORD and the like (its protocol and argument), on every machine"
            )
        from fsspec import get_filesystem_class

        try:
            get_filesystem_class(storage.partition("://")[0].rpartition("::")[2])
        except ImportError as error:
            raise SpecError(f"{describe(storage)}: {error}{how_to_install_driver(error)}") from None


def _keep_last(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        raise SpecError(
            "got 0; must be at least 1, for a trial goes on from its newest checkpoint (null or None keeps all). "
            "To save none, leave `every` at 0; to keep the best ones, set `keep_best`"
        )
    return value


class CheckpointPolicy(Strict):
    """When a trial's state is saved and which of its checkpoints are kept.

    `every`: steps between two (0: only where the scheduler asks, the train function brings one, or `keep_best` wants
    one); `at_end`: once more when the trial ends; `keep_last`: the newest (None: all); `keep_best`: the best ones
    (None: no more), which without `every` are saved whenever the trial reports a new best; `storage`: any fsspec path
    (None: beside the results).
    """

    every: Natural = 0
    at_end: bool = False
    keep_last: Annotated[Count | None, BeforeValidator(_keep_last)] = 1
    keep_best: Count | None = None
    storage: Annotated[str | None, AfterValidator(_known_storage)] = None
