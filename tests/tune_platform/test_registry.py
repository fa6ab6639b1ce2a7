"""Searchers, schedulers and backends by name."""

from __future__ import annotations

import inspect
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from tests.support import TinyPBT
from tune_platform import ASHA, FIFO, AsyncHyperBand, SearchSpec, registry, uniform
from tune_platform.backends.inline import InlineBackend
from tune_platform.errors import SpecError
from tune_platform.registry import (
    BACKENDS,
    SCHEDULERS,
    SEARCHERS,
    Registry,
    make_backend,
    make_scheduler,
    make_searcher,
)
from tune_platform.searchers import GridSearcher, RandomSearcher
from tune_platform.spec import load_spec

ROOT = Path(__file__).parents[2]
ALL = pytest.mark.parametrize("parts", [SEARCHERS, SCHEDULERS, BACKENDS], ids=lambda parts: parts.what)


@ALL
def test_what_is_built_in_is_an_entry_point_too(parts: Registry) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][parts.group] == parts.builtin


@ALL
def test_what_is_built_in_needs_no_metadata(parts: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entry_points", lambda group, path: ())
    assert parts.names() == list(parts.builtin)
    needed: dict[str, dict[str, Any]] = {
        "freeze_thaw": {"max": 9},
        "hyperband": {"max": 9},
        "pasha": {"max": 9},
        "successive_halving": {"max": 9},
        "pbt": {"interval": 2},
        "pb2": {"interval": 2},
        "mf_pbt": {"interval": 2},
        "priorband": {"prior": {"lr": 0.1}},
        "replay": {"policy": [{"from": 0, "config": {}}]},
        "pbt_replay": {"policy": [{"from": 0, "config": {}}]},
    }
    for name in parts.names():
        parts.check(parts.build(name, **needed.get(name, {})), parts.names())


def test_an_option_that_is_needed_is_named() -> None:
    with pytest.raises(SpecError, match=r"scheduler 'pbt' needs interval: \{name: pbt, interval: ...\}"):
        make_scheduler("pbt")


@ALL
def test_options_that_are_listed_are_arguments(parts: Registry) -> None:
    for name, options in parts.options.items():
        assert set(options) <= set(inspect.signature(parts.factory(name)).parameters)


def install(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    """Have only these entry points installed."""

    def installed(group: str, path: tuple[str, ...]) -> list[EntryPoint]:
        return [entry for entry in entries if entry.group == group]

    monkeypatch.setattr(registry, "_entry_points", installed)


class Sampled(RandomSearcher):
    def __init__(self, depth: int = 3) -> None:
        self.depth = depth


class Patient(FIFO):
    pass


class Elsewhere(InlineBackend):
    pass


@pytest.mark.parametrize(
    ("parts", "kind"), [(SEARCHERS, Sampled), (SCHEDULERS, Patient), (BACKENDS, Elsewhere)], ids=["s", "sch", "b"]
)
def test_a_package_offers_its_own(parts: Registry, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("own", f"{__name__}:{kind.__name__}", parts.group)
    broken = EntryPoint("broken", f"{__name__}:Nothing", parts.group)
    absent = EntryPoint("absent", "a_package_that_is_not_here:Nothing", parts.group)

    install(monkeypatch, entry, broken, absent)
    assert isinstance(parts.build("own"), kind)
    assert parts.names() == [*parts.builtin, "absent", "broken", "own"]
    with pytest.raises(SpecError, match=r"did you mean 'own'\?\); known: .*, own"):
        parts.build("ownn")
    with pytest.raises(SpecError, match=f"{parts.what} 'broken': .*:Nothing cannot be loaded: AttributeError"):
        parts.build("broken")
    with pytest.raises(SpecError, match="needs 'a_package_that_is_not_here', which is not installed"):
        parts.build("absent")


def test_a_file_names_the_parts_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, EntryPoint("elsewhere", f"{__name__}:Elsewhere", BACKENDS.group))
    data: dict[str, Any] = {"version": 1, "entrypoint": "a:b", "objective": {"metric": "m", "mode": "min"}}
    spec = SearchSpec.from_dict({**data, "backend": {"name": "elsewhere", "custom": {"tpu": 1}}})
    assert isinstance(spec.make_backend(), Elsewhere)
    assert spec.to_dict()["backend"] == {"name": "elsewhere", "custom": {"tpu": 1}}
    with pytest.raises(SpecError, match="backend: backend 'elsewhere' has no option 'tpu'; its options: num_cpus"):
        SearchSpec.from_dict({**data, "backend": {"name": "elsewhere", "tpu": 1}})


def test_by_name() -> None:
    assert isinstance(make_scheduler("fifo"), FIFO)
    asha = make_scheduler("asha", max=27, type="promotion")
    assert isinstance(asha, ASHA)
    assert (asha.max, asha.type) == (27, "promotion")
    assert isinstance(make_scheduler("async_hyperband"), AsyncHyperBand)
    assert isinstance(make_searcher("grid"), GridSearcher)
    assert isinstance(make_backend("inline", num_cpus=2), InlineBackend)


def test_a_class_is_built_and_an_object_is_returned_as_it_is() -> None:
    assert isinstance(make_scheduler(FIFO), FIFO)
    assert make_searcher(Sampled, depth=2).depth == 2  # type: ignore[attr-defined]
    scheduler: Any = FIFO()
    assert make_scheduler(scheduler) is scheduler
    with pytest.raises(SpecError, match="options \\['max'\\] go with a scheduler's name"):
        make_scheduler(scheduler, max=3)


def test_mistakes() -> None:
    with pytest.raises(SpecError, match="no scheduler 'ahsa' \\(did you mean 'asha'\\?\\)"):
        make_scheduler("ahsa")
    with pytest.raises(SpecError, match="no option 'maxx' \\(did you mean 'max'\\?\\)"):
        make_scheduler("asha", maxx=9)
    with pytest.raises(SpecError, match="its options: none"):
        make_scheduler("fifo", max=9)
    with pytest.raises(SpecError, match=r"is not a backend: it has no start, submit, .*or one of ray, inline"):
        make_backend(object())
    with pytest.raises(
        SpecError, match=r"is not a scheduler: it has no .*on_report, .*or one of asha, async_hyperband"
    ):
        make_scheduler(GridSearcher())


class OldScheduler:
    """As one was written for the first protocol."""

    resource = "step"

    def setup(self, *, metric: str, mode: str, seed: int) -> None: ...
    def until(self, trial: Any) -> tuple[float | None, bool]:
        return None, False

    def on_report(self, trial: Any, report: Any) -> None: ...
    def choose(self, candidates: Any) -> int | None: ...
    def on_end(self, trial: Any, status: str) -> None: ...
    def describe(self) -> dict[str, Any]:
        return {}


class OldSearcher:
    synchronous = True

    def setup(self, space: Any, *, mode: Any, seed: int) -> None: ...
    def ask(self, number: int) -> None: ...
    def observe(self, number: int, config: Any) -> None: ...
    def tell(self, number: int, outcome: Any) -> None: ...
    def restore(self, past: Any) -> None: ...


@pytest.mark.parametrize("given", [OldScheduler, OldScheduler()], ids=["class", "object"])
def test_a_scheduler_of_the_first_protocol_is_told_what_to_change(given: Any) -> None:
    with pytest.raises(SpecError) as raised:
        SearchSpec(trainable=print, param_space={"x": uniform(0, 1)}, metric="m", mode="min", scheduler=given)
    assert str(raised.value).startswith(
        "SearchSpec: scheduler: scheduler OldScheduler is written for the first scheduler protocol: "
        "it has no on_add, on_start, on_supply_end. Add them"
    )
    assert "`choose` and `until` are questions now and change nothing" in str(raised.value)
    assert isinstance(make_scheduler(TinyPBT()), TinyPBT)


@pytest.mark.parametrize("given", [OldSearcher, OldSearcher()], ids=["class", "object"])
def test_a_searcher_of_the_first_protocol_is_told_what_to_change(given: Any) -> None:
    with pytest.raises(SpecError, match="OldSearcher is written for the first searcher protocol: it has no"):
        make_searcher(given)


def test_a_spec_takes_every_option_of_the_shipped_backends(tmp_path: Path) -> None:
    """The names stand in the registry too, so that a spec is read without importing Ray."""
    for name, known in BACKENDS.options.items():
        parameters = inspect.signature(BACKENDS.factory(name)).parameters.values()
        assert set(known) == {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\nname: e\nentrypoint: json:dumps\nobjective: {metric: m, mode: min}\nspace: {x: 1}\n"
        "backend: {autoscale: 16, weight: 2, priority: 1, refresh_s: 1.5, connect_s: 3}\n"
    )
    assert load_spec(path).backend == {
        "name": "ray", "autoscale": 16, "weight": 2, "priority": 1, "refresh_s": 1.5, "connect_s": 3,
    }  # fmt: skip
