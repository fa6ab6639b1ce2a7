"""What `tune-platform top` tells of a cluster and of the searches on it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tune_platform.cli import main
from tune_platform.cluster import standing
from tune_platform.cluster.standing import Node, Search, nodes_of, searches_of


def note(**about: object) -> str:
    base = {"experiment": "e", "who": "ada@here", "holds": "1 cpu", "runs": 2, "waits": 0}
    return json.dumps({"beat": 3, "about": {**base, "most": None, "places": None, **about}})


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({}, ""),
        ({"waits": 9, "most": 2}, "budget.concurrency: 2 at a time"),
        ({"waits": 9, "places": 2.0}, "its share: 2 places of the cluster"),
        ({"waits": 9}, "no node has room for it"),
        ({"waits": 9, "places": 0.0, "why": "the quota of ada: 1 cpu"}, "the quota of ada: 1 cpu"),
        ({"waits": 9, "places": 3.0, "most": 8}, "no node has room for it"),
    ],
)
def test_why_a_trial_waits(about: dict[str, object], why: str) -> None:
    (search,) = searches_of({"01": note(**about)})
    assert (search.why, search.runs, search.holds) == (why, 2, "1 cpu")


def test_the_longest_standing_comes_first_and_an_older_release_says_little() -> None:
    found = searches_of({"02": note(experiment="new"), "01": json.dumps({"wants": 1.0, "beat": 1})})
    assert [search.experiment for search in found] == ["?", "new"]


def test_what_of_a_node_is_taken() -> None:
    listed = [
        {"Alive": True, "NodeID": "b", "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 4.0, "memory": 8e9}},
        {"Alive": True, "NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": False, "NodeID": "c", "NodeManagerAddress": "10.0.0.3", "Resources": {}},
    ]
    first, second = nodes_of(listed, {"a": {"CPU": 0.5}, "b": {"CPU": 4.0, "memory": 6e9}})
    assert first == Node(address="10.0.0.1", taken={"CPU": 1.5, "GPU": 1.0}, has={"CPU": 2.0, "GPU": 1.0})
    assert second.taken == {"CPU": 0.0, "memory": 2e9}


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(address="10.0.0.1", taken={"CPU": 1.5, "memory": 2e9}, has={"CPU": 2.0, "memory": 8e9})
    search = Search(experiment="digits", who="ada@here", runs=1, waits=7, holds="1 cpu", why="no node has room for it")
    monkeypatch.setattr(standing, "look", lambda address, seconds: ([node], [search]))
    said = CliRunner().invoke(main, ["top"]).output
    assert [line.split() for line in said.splitlines() if line.startswith("10.")] == [
        ["10.0.0.1", "1.5", "of", "2", "-", "2.0", "GB", "of", "8.0", "GB"]
    ]
    assert "digits" in said
    assert "no node has room for it" in said


def test_where_no_ray_is_it_says_so() -> None:
    done = CliRunner().invoke(main, ["top", "--address", "127.0.0.1:1"])
    assert done.exit_code == 2
    assert "no Ray can be joined at 127.0.0.1:1 (from --address): " in done.output


@pytest.mark.parametrize("amount", ["cpu=0", "cpu", "=3", "gpu=-1", "gpu=many", "gpu=inf"])
def test_a_quota_of_nothing_is_refused_in_one_message(amount: str) -> None:
    done = CliRunner().invoke(main, ["quota", "ada", amount])
    assert done.exit_code == 2
    assert f"got {amount!r}; a resource and a number above 0 are wanted, such as gpu=2" in done.output


def test_quotas_are_set_shown_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def quotas(*given: object) -> standing.Quotas:
        asked.append(given[2:])
        return {"ada": {"gpu": 2.0, "cpu": 16.0}}

    monkeypatch.setattr(standing, "quotas", quotas)
    assert "2 gpu, 16 cpu" in CliRunner().invoke(main, ["quota", "ada", "gpu=2", "cpu=16"]).output
    assert "bob has no quota" in CliRunner().invoke(main, ["quota", "bob"]).output
    assert CliRunner().invoke(main, ["quota", "ada", "--clear"]).exit_code == 0
    assert CliRunner().invoke(main, ["quota", "ada", "gpu=2", "--clear"]).exit_code == 2
    assert asked == [("ada", {"gpu": 2.0, "cpu": 16.0}), (), ("ada", {})]
