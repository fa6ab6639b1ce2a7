"""Small files that would take for ever, fill the memory or end in a traceback are refused with a line and a reason."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tune_platform import SearchSpec, SpecError, resume, run, uniform
from tune_platform.cli.app import main
from tune_platform.protocol.requests import refusal
from tune_platform.space import constraints
from tune_platform.spec import load_spec, strict_yaml
from tune_platform.store.sql import open_store

HEAD = "version: 1\nentrypoint: json:dumps\nmetric: loss\nmode: min\n"
X = "space:\n  x: {type: int, low: 1, high: 5}\n"


def bomb(levels: int = 8) -> str:
    names = [f"a{level}" for level in range(levels)]
    lines = [f"  {names[0]}: &{names[0]} [{', '.join('1' * 10)}]"]
    lines += [f"  {b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in itertools.pairwise(names)]
    return "space:\n" + "\n".join(lines) + "\n"


BAD = [
    (bomb(), "line 10: more than 100,000 values, counting each alias"),
    (bomb().replace("space", "spce"), "line 10: more than 100,000 values"),
    ("space: &x\n  a: *x\n", "line 5: an anchor refers to itself"),
    ("space: {x: &x [*x]}\n", "line 5: an anchor refers to itself"),
    ("space: {x: " + "[" * 400 + "1" + "]" * 400 + "}\n", "line 5: nested deeper than 50"),
    (X + 'constraints: ["((((10**100)**100)**100)**100) > x"]\n', "a whole number has more than 1024 bits"),
    (X + 'constraints: ["' + "-" * 1500 + 'x < 3"]\n', "line 7, constraints[0]: constraint '-----"),
    (X + 'constraints: ["x < 1' + "0" * 1500 + '"]\n', "a whole number has more than 1024 bits"),
    (
        "space:\n  x: {type: int, low: 1, high: 1" + "0" * 400 + "}\n",
        "line 6, space.x: Int(high=...): a whole number of",
    ),
    (
        "space:\n  x: {type: float, low: 1, high: 1" + "0" * 400 + "}\n",
        "line 6, space.x: Float(high=...): a whole number",
    ),
    ("space:\n  x: 1" + "0" * 5000 + "\n", "a value cannot be read: Exceeds the limit"),
    ("budget: {trials: 1" + "0" * 400 + "}\n", "line 5, budget.trials: got 1000"),
    ("budget: {time: 1" + "0" * 400 + "d}\n", "that is more than a float holds"),
    ("search: {seed: 1" + "0" * 400 + "}\n", "line 5, search.seed: got 1000"),
    ("space:\n  x: 2024-01-01\n", "line 6, space.x: YAML reads 2024-01-01 as a date; write '2024-01-01'"),
    ("search: {name: tpe, n_startup_trials: 2024-01-01}\n", "line 5, search.n_startup_trials: YAML reads 2024-01-01"),
    ("space:\n  x: 2024-13-45\n", "a value cannot be read: month must be in 1..12"),
    ("space:\n  x: !!binary aGVsbG8=\n", "line 6, space.x: is written as binary"),
    ("space:\n  x: !!set {a, b}\n", "line 6, space.x: is written as set"),
    (
        "checkpoint: {storage: 's33://a/b'}\n",
        "line 5, checkpoint.storage: got 's33://a/b' (text); fsspec knows no s33://",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_file_that_nobody_can_mean_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        load_spec(path).check()
    assert message in str(raised.value)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(HEAD + "checkpoint: {storage: 's33://a/b'}\nname: left\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["run", str(path), "--storage", str(tmp_path / "results")])
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "results" / "left").exists()


def test_what_is_large_but_meant_is_taken() -> None:
    aliases = "a: &a [1, 2, 3]\nb: [*a, *a]\nc: {<<: {d: 1}, e: *a}\n"
    assert strict_yaml.parse(aliases).data["b"] == [[1, 2, 3], [1, 2, 3]]
    values = ", ".join(map(str, range(20_000)))
    assert len(strict_yaml.parse(f"a: [{values}]").data["a"]) == 20_000
    rule = constraints.Constraint("(((x + 1) * 2) ** 3) % 7 < 10.0 ** 90 and not (x in [1, 2] or -(-x) == 2 ** 60)")
    assert rule.satisfied({"x": 5})


def test_a_space_that_holds_itself_is_refused() -> None:
    space: dict[str, Any] = {"x": uniform(0, 1)}
    space["inner"] = space
    with pytest.raises(SpecError, match=r"param_space: .*(holds itself|nested)"):
        SearchSpec(trainable=lambda config: 1.0, param_space=space, metric="loss", mode="min")


# ------------------------------------------------------------------------------- the inbox


REQUESTS: list[tuple[Any, Any, Any, str]] = [
    ("extend", None, {"trials": "many"}, "extend: trials is 'many'; a whole number from 0 on is wanted"),
    ("extend", None, {"trials": 1.5}, "extend: trials is '1.5'"),
    ("extend", None, {"trials": -1}, "extend: trials is '-1'"),
    ("extend", None, {"trials": 10**30}, "extend: trials is '1000"),
    ("extend", None, {"time": "soon"}, "extend: time is 'soon'; a number of seconds"),
    ("extend", None, {"time": float("nan")}, "extend: time is 'nan'"),
    ("extend", None, {"time": 10**400}, "extend: time is '1000"),
    ("extend", None, {"trails": 3}, "extend: unknown 'trails' (did you mean 'trials'?); allowed: trials, time"),
    ("enqueue", None, {"config": [1]}, "enqueue: config is '[1]'; keys and values are wanted"),
    ("stopp", None, {}, "there is no request 'stopp' (did you mean 'stop'?)"),
    ("pause", "first", {}, "pause: trial is 'first'; a whole number is wanted"),
    ("stop", None, [1], "stop: its data are '[1]'; keys and values are wanted"),
]


@pytest.mark.parametrize(("action", "trial", "data", "message"), REQUESTS)
def test_a_request_that_makes_no_sense_is_told(action: Any, trial: Any, data: Any, message: str) -> None:
    assert message in refusal(action, trial, data)


def quick(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["x"]}


def test_bad_rows_of_the_inbox_are_refused_and_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = SearchSpec(trainable=quick, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=2,
                      storage=str(tmp_path), backend="inline", name="inbox")  # fmt: skip
    run(spec)
    with open_store(tmp_path) as store, store.open("inbox") as experiment:
        for action, _, data, _ in REQUESTS[:10]:
            experiment.request(action, None, data if isinstance(data, dict) else {"?": data})
        experiment.request("extend", None, {"trials": 1})
        with experiment._db.transaction() as cursor:  # what another program may write
            cursor.execute("UPDATE requests SET data = '{not JSON' WHERE id = 1")
    results = resume("inbox", storage=tmp_path, spec=spec)
    assert (results.status, len(results)) == ("finished", 3)
    refused = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert len(refused) == 10
    assert refused[1] == "request 2 was refused: extend: trials is '1.5'; a whole number from 0 on is wanted"
    caplog.clear()
    assert len(resume("inbox", storage=tmp_path, spec=spec)) == 3
    assert not caplog.records, "none is looked at again"
    with open_store(tmp_path) as store, store.open("inbox", readonly=True) as experiment:
        logged = [row.data for row, _ in experiment.read_log() if row.kind == "requested"]
    assert len(logged) == 11
    assert logged[2]["refused"] == "extend: trials is '-1'; a whole number from 0 on is wanted"
