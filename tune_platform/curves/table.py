"""`CurveTable`: configs, the values that each reported at every step, and the seconds of each step.

A file holds a header (JSON: `format`, `space` in the form of spec files, `metric`, `mode`, `resource`, `name`), and for
each config its parameters, one row of values a metric, and one row of seconds. `docs/simulate.md` describes both forms,
npz and Parquet. A config that is not in the table is answered with its nearest row, or with what a surrogate gives.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_platform.curves.nearest import Nearest
from tune_platform.curves.surrogate import Surrogate
from tune_platform.errors import SpecError, did_you_mean
from tune_platform.extras import require
from tune_platform.space import Domain, Float, Int, Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
#: What a config that is not in the table is answered with.
BETWEEN = ("nearest", "surrogate")
_HEADER = ("format", "space", "metric", "mode")
_VALUES = "values/"


@dataclass(frozen=True)
class CurveTable:
    """Learning curves of `configs`; raises SpecError where its parts do not fit together.

    `values[metric][i, s - 1]` is what config i reported at step s, NaN where it had ended; `seconds` has the same
    shape. `resource` is the name that schedulers know the step by.
    """

    space: Space
    metric: str
    mode: str
    configs: Sequence[Mapping[str, Any]]
    values: Mapping[str, NDArray[np.float32]]
    seconds: NDArray[np.float32]
    resource: str = "step"
    name: str = "table"

    def __post_init__(self) -> None:
        if self.metric not in self.values:
            hint = did_you_mean(self.metric, self.values)
            raise SpecError(f"{self.name}: it has no values of {self.metric!r}{hint}; it has {', '.join(self.values)}")
        if self.mode not in ("min", "max"):
            raise SpecError(f"{self.name}: mode is {self.mode!r}; allowed: min, max")
        if not self.configs:
            raise SpecError(f"{self.name}: it holds no config")
        shape = self.values[self.metric].shape
        for what, array in [*self.values.items(), ("seconds", self.seconds)]:
            if array.shape != shape or array.ndim != 2 or len(array) != len(self.configs):
                raise SpecError(
                    f"{self.name}: {what} has the shape {array.shape}; ({len(self.configs)} configs, steps) is wanted, "
                    f"as for {self.metric}: {shape}"
                )
        missing = np.isfinite(self.values[self.metric]) & ~(np.isfinite(self.seconds) & (self.seconds >= 0))
        if missing.any():
            row, step = np.argwhere(missing)[0]
            raise SpecError(
                f"{self.name}: config {row} has a value at step {step + 1} and no seconds for it "
                f"(seen {self.seconds[row, step]!s}); each step needs the seconds that it took"
            )

    @property
    def steps(self) -> int:
        """The number of steps of the longest curve."""
        return int(self.seconds.shape[1])

    # -------------------------------------------------------------------------------------- looked up

    def lookup(
        self, space: Space | None = None, *, between: str = "nearest"
    ) -> tuple[Callable[..., Any], Callable[..., float]]:
        """Return `curve(config, step)` and `step_time(config, step)` as `SimulatedBackend` takes them.

        A config `between` the rows of the table is answered with the nearest of them: the distance of two configs is
        the mean over the parameters, of numbers on their own scale (log or not) within the domain, of choices 0 or 1.
        With `surrogate` it is answered with what trees that are fitted to the table expect of it, and ends where its
        nearest row does. `space` is the one that is searched; raises SpecError where it does not fit the table's.
        """
        if between not in BETWEEN:
            raise SpecError(f"between: got {between!r}{did_you_mean(between, BETWEEN)}; allowed: {', '.join(BETWEEN)}")
        self.check_space(space or self.space)
        nearest = Nearest(self.space, self.configs)
        ends = np.isfinite(self.values[self.metric]).cumprod(axis=1).sum(axis=1)
        rows = {name: array.astype(float) for name, array in self.values.items()}
        seconds = self.seconds.astype(float)

        def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
            row = nearest(config)
            if step > ends[row]:
                return None
            at = step - 1
            found = {name: float(array[row, at]) for name, array in rows.items()}
            return found if self.resource == "step" else {**found, self.resource: step}

        def step_time(config: Mapping[str, Any], step: int) -> float:
            return float(seconds[nearest(config), step - 1])

        if between == "nearest":
            return curve, step_time
        surrogate = Surrogate(self.space, self.configs, self.values, self.seconds)

        def expected(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
            if step > ends[nearest(config)]:
                return None
            found = {name: each[step - 1] for name, each in surrogate(config)[0].items()}
            return found if self.resource == "step" else {**found, self.resource: step}

        return expected, lambda config, step: surrogate(config)[1][step - 1]

    def check_space(self, space: Space) -> None:
        """Raise SpecError where a space has other parameters than the table, or values outside its domains."""
        if space.define_by_run:
            raise SpecError(
                f"{self.name}: a space that is a function cannot be compared with the table's; write a dict"
            )
        mine = {each.name: each.domain for each in self.space.parameters()}
        theirs = {each.name: each.domain for each in space.parameters()}
        problems = [f"the table has no parameter {name!r}{did_you_mean(name, mine)}" for name in theirs.keys() - mine]
        problems += [f"the space has no parameter {name!r}, which the table has" for name in mine.keys() - theirs]
        for name in mine.keys() & theirs:
            for value in _extremes(theirs[name]):
                if not mine[name].contains(value):
                    problems.append(f"{name}={value!r} is not in the table's {mine[name]}")
                    break
        if problems:
            raise SpecError(f"the space does not fit {self.name}: " + "; ".join(sorted(problems)))

    # -------------------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write it as npz, or as Parquet where the name ends so. Raises SpecError for any other ending."""
        path = Path(path)
        header = json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "space": self.space.to_dict(),
                "metric": self.metric,
                "mode": self.mode,
                "resource": self.resource,
            }
        )
        configs = [json.dumps(config) for config in self.configs]
        if path.suffix == ".parquet":
            self._save_parquet(path, header, configs)
        elif path.suffix == ".npz":
            values = {f"{_VALUES}{name}": array.astype(np.float32) for name, array in self.values.items()}
            arrays = {"header": np.array(header), "configs": np.array(configs), "seconds": self.seconds, **values}
            np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        else:
            raise SpecError(f"{path}: a table of curves is a file .npz or .parquet")

    def _save_parquet(self, path: Path, header: str, configs: Sequence[str]) -> None:
        require("a table in Parquet", "pyarrow")
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {f"{_VALUES}{name}": list(array) for name, array in self.values.items()}
        table = pa.table({"config": list(configs), "seconds": list(self.seconds), **columns})
        pq.write_table(table.replace_schema_metadata({"curves": header}), path, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> CurveTable:
        """Read a table. Raises SpecError where the file is none, or lacks something; the message says what."""
        path = Path(path)
        if not path.is_file():
            raise SpecError(f"{path}: there is no such file of learning curves")
        if path.suffix not in (".npz", ".parquet"):
            raise SpecError(f"{path}: a table of curves is a file .npz or .parquet")
        try:
            header, arrays = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise SpecError(f"{path}: it cannot be read as a table of curves: {error}") from error
        lacking = [key for key in _HEADER if key not in header]
        lacking += [key for key in ("configs", "seconds") if key not in arrays]
        if lacking:
            raise SpecError(f"{path}: the table has no {', '.join(lacking)}; docs/simulate.md describes the format")
        if header["format"] > FORMAT:
            raise SpecError(f"{path}: format {header['format']} is newer than this release, which reads {FORMAT}")
        return cls(
            space=Space.from_dict(header["space"]),
            metric=header["metric"],
            mode=header["mode"],
            configs=[json.loads(text) for text in arrays["configs"].tolist()],
            values={k.removeprefix(_VALUES): array for k, array in arrays.items() if k.startswith(_VALUES)},
            seconds=arrays["seconds"],
            resource=header.get("resource", "step"),
            name=header.get("name", path.stem),
        )


def _extremes(domain: Domain) -> Sequence[Any]:
    """Return values that lie in another domain where all of this one do."""
    if isinstance(domain, (Float, Int)):
        return domain.low, domain.high
    return domain.grid() if domain.size is not None else domain.grid(3)


def _read_npz(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    header = arrays.pop("header", None)
    return ({} if header is None else json.loads(str(header))), arrays


def _read_parquet(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    require("a table in Parquet", "pyarrow")
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    header = json.loads((table.schema.metadata or {}).get(b"curves", b"{}"))
    arrays: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        column = table[name].to_pylist()
        if name == "config":
            arrays["configs"] = np.array(column)
        elif name == "seconds" or name.startswith(_VALUES):
            arrays[name] = np.array(column, dtype=np.float32)
    return header, arrays
