# ruff: noqa: E501 (golden texts are as long as they are)
"""Golden texts: what a user reads after each of the common mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_platform.errors import SpecError
from tune_platform.spec import load_spec

GOOD = """\
version: 1
entrypoint: my_module:train
objective: {metric: loss, mode: min}
space:
  lr: {type: float, low: 1.0e-4, high: 0.1, log: true}
"""
HEAD = "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\n"

# (what to add to the good spec, or a whole spec; the message, without the name of the file)
MISTAKES: list[tuple[str, str]] = [
    (
        "sheduler: asha\n",
        "line 6, sheduler: unknown key (did you mean 'schedule'?); known: version, name, if_exists, description, tags, entrypoint, objective, space, constraints, search, schedule, budget, resources, stop, on_bad_metric, checkpoint, retries, storage, backend, step_timeout, reuse_workers, keep_warm, own_folder, grace, store_patience, misfit_after, node_patience, progress, log_to_driver, log_limit, track",
    ),
    ('tags: [paper, " b"]\n', "line 6, tags: ' b' is no tag; 1 to 40 letters on one line are wanted"),
    ("tags: 3\n", "line 6, tags: got 3 (a whole number); a list is wanted"),
    (
        "version: 2\nentrypoint: a:b\nobjective: {metric: loss, mode: min}\n",
        "line 1, version: got 2 (a whole number); allowed: 1",
    ),
    (
        "entrypoint: a:b\nobjective: {metric: loss, mode: min}\n",
        "line 1, version: is missing; write for example version: 1",
    ),
    (
        "version: 1\nobjective: {metric: loss, mode: min}\n",
        "line 1, entrypoint: is missing; write for example entrypoint: my_module:train",
    ),
    (
        "version: 1\nentrypoint: a:b\n",
        "line 1, objective: is missing; write for example objective: {metric: val_loss, mode: min}",
    ),
    (
        "version: 1\nentrypoint: train.py\nobjective: {metric: loss, mode: min}\n",
        'line 2, entrypoint: got \'train.py\'; an entrypoint is "module:name", such as "my_module:train"',
    ),
    (
        "version: 1\nentrypoint: a:b\nobjective: {metric: loss, mode: maximise}\n",
        "line 3, objective.mode: got 'maximise' (text); allowed: min, max (did you mean 'max'?)",
    ),
    (
        "version: 1\nentrypoint: a:b\nobjective: {metric: loss, goal: min}\n",
        "2 problems\n  line 3, objective.mode: is missing; write for example mode: min\n  line 3, objective.goal: unknown key (did you mean 'mode'?); known: metric, mode, target",
    ),
    (
        "version: 1\nentrypoint: a:b\nobjective: loss\n",
        "line 3, objective: got 'loss' (text); keys and values are wanted: metric, mode, target",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  lr: {type: float, low: 1e-5, high: 0.1}\n",
        "line 5, space.lr.low: YAML 1.1 reads 1e-5 as text; write 1.0e-5 (or quotes, if text is meant)",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  lr: {type: float, low: 1.0e5, high: 2}\n",
        "line 5, space.lr.low: YAML 1.1 reads 1.0e5 as text; write 1.0e+5 (or quotes, if text is meant)",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  shuffle: {type: choice, values: [yes, no]}\n",
        "2 problems\n  line 5, space.shuffle.values[0]: YAML 1.1 reads the bare word yes as true; write 'yes' or true\n  line 5, space.shuffle.values[1]: YAML 1.1 reads the bare word no as false; write 'no' or false",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  lr: {type: float, low: 1, high: 0.1}\n",
        "line 5, space.lr: Float(low=1, high=0.1): low must be below high",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  lr: {type: uniform, low: 0, high: 1}\n",
        "line 5, space.lr: there is no parameter type 'uniform' (write {type: float, low: ..., high: ...}); there are float, int, choice, grid, normal, const. For a dict with a key `type` of its own, write `type: {type: const, value: uniform}`",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  lr: {type: float, min: 0, high: 1}\n",
        "line 5, space.lr: type float has no key 'min'; it has low, high, log, step",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  lr: {type: float, low: 0, high: 1, log: true}\n",
        "line 5, space.lr: Float(low=0): a logarithmic scale needs low above 0",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace:\n  m: {type: float, low: 0, high: 1, when: {optimiser: sgd}}\n",
        "line 4, space: when optimiser == 'sgd': there is no parameter 'optimiser' in the space",
    ),
    (
        "version: 1\nentrypoint: my_module:train\nobjective: {metric: loss, mode: min}\nspace: [1, 2]\n",
        "line 4, space: got [1, 2] (a list); keys and values are wanted",
    ),
    (
        'constraints: ["lrr < 1"]\n',
        "line 6, constraints[0]: constraint 'lrr < 1': there is no parameter 'lrr' (did you mean 'lr'?)",
    ),
    (
        'constraints: ["__import__(1)"]\n',
        "line 6, constraints[0]: constraint '__import__(1)': '__import__(1)' is not allowed; names, numbers, texts, + - * / // % **, comparisons, in, and, or, not and parentheses are",
    ),
    (
        "search: random_search\n",
        "line 6, search: there is no searcher 'random_search' (did you mean 'random'?); known: random, grid, optuna, tpe, gp, cmaes, nsgaii, nsgaiii, qmc, bohb, screen, evolution, cqr, forest, portfolio, bo, mfes, dehb, turbo, priorband",
    ),
    (
        "schedule: {name: pbt, interval: 5, mutations: {lrr: null}}\n",
        "line 6, schedule: pbt: mutations name 'lrr', which is no parameter of the space (did you mean 'lr'?); it has lr",
    ),
    (
        "schedule: {name: pb2, interval: 5, mutations: {lr: [0.1, 0.2]}}\n",
        "line 6, schedule: pb2: no parameter that may change is a number of a range: use pbt",
    ),
    (
        "schedule: {name: mo_asha, max: 9}\n",
        "line 6, schedule: mo_asha: it needs several objectives, got ['loss']; for one use asha",
    ),
    (
        "search: {name: random, tries: 3}\n",
        "line 6, search: searcher 'random' has no option 'tries'; its options: grid_order, constant_grid_search",
    ),
    (
        "search: {name: tpe, initial: [{learning_rate: 0.1}]}\n",
        "line 6, search.initial[0]: there is no parameter 'learning_rate' in the space",
    ),
    (
        "search: {name: random, seed: seven}\n",
        "line 6, search.seed: got 'seven' (text); a whole number is wanted",
    ),
    (
        "schedule: ahsa\n",
        "line 6, schedule: there is no scheduler 'ahsa' (did you mean 'asha'?); known: asha, async_hyperband, asynchyperband, fifo, freeze_thaw, hyperband, median, median_stopping_rule, medianstopping, mf_pbt, mo_asha, pasha, pb2, pbt, pbt_replay, replay, successive_halving",
    ),
    (
        "schedule: {name: asha, grace_period: 1}\n",
        "line 6, schedule: scheduler 'asha' has no option 'grace_period'; its options: resource, min, max, eta, type",
    ),
    (
        "schedule: {name: asha, min: 9, max: 3}\n",
        "line 6, schedule: asha: max must be at least min (9), got 3",
    ),
    (
        "schedule: {name: asha, min: one}\n",
        "line 6, schedule: asha: min must be a number, got 'one'",
    ),
    (
        "budget: {trials: 0}\n",
        "line 6, budget.trials: got 0; must be at least 1",
    ),
    (
        "budget: {num_samples: 0}\n",
        "line 6, budget.num_samples: got 0; must be at least 1, or -1 for no limit",
    ),
    (
        "budget: {trials: many}\n",
        "line 6, budget.trials: got 'many' (text); a whole number is wanted",
    ),
    (
        "budget: {time: 6 hours}\n",
        'line 6, budget.time: got \'6 hours\'; a duration is a number of seconds or text such as "90s", "1h30m" or "2d"',
    ),
    (
        "budget: {trails: 10}\n",
        "line 6, budget.trails: unknown key (did you mean 'trials'?); known: trials, num_samples, time, deadline, gpu_hours, cost, failures, concurrency",
    ),
    (
        "budget:\n",
        "line 6, budget: got nothing; keys and values are wanted: trials, num_samples, time, deadline, gpu_hours, cost, failures, concurrency",
    ),
    (
        "resources: {CPU: 2}\n",
        "line 6, resources.CPU: unknown key (did you mean 'cpu'?); known: cpu, gpu, custom, workers, strategy, accelerator, grow",
    ),
    (
        "resources: {cpu: -1}\n",
        "line 6, resources.cpu: got -1; must be at least 0",
    ),
    (
        "resources: {strategy: pack}\n",
        "line 6, resources.strategy: got 'pack' (text); allowed: PACK, SPREAD, STRICT_PACK, STRICT_SPREAD (did you mean 'PACK'?)",
    ),
    (
        "stop: {loss: 0.1}\n",
        "line 6, stop.loss: ends a trial once loss is at least 0.1, but it is to be minimised: trials would end at their first report. To end the search at a value, give a target",
    ),
    (
        "stop: {epoch: 1e2}\n",
        "line 6, stop.epoch: YAML 1.1 reads 1e2 as text; write 1.0e+2 (or quotes, if text is meant)",
    ),
    (
        "retries: {crash: 1}\n",
        "line 6, retries.crash: unknown key; known: exception, worker_died, timeout, bad_metric, lost_checkpoint, out_of_memory",
    ),
    (
        "retries: {out_of_memory: {times: 2, memory: 1.5}}\n",
        'line 6, retries.out_of_memory.memory: got 1.5 (a number); a factor from x1 to x100 is wanted, such as "x1.5"',
    ),
    (
        "retries: {out_of_memory: {times: 2, memory: x1.5}}\n",
        "line 6, retries.out_of_memory.memory: the trials hold no memory that could grow; say how many bytes: resources: {custom: {memory: 4000000000}}",
    ),
    (
        "retries: -1\n",
        "line 6, retries: got -1; must be at least 0",
    ),
    (
        "storage: {path: results, url: 'sqlite://'}\n",
        "line 6, storage: path and url are both given; give one",
    ),
    (
        "backend: slurm\n",
        "line 6, backend: there is no backend 'slurm'; known: ray, inline",
    ),
    (
        "backend: {name: ray, address: 10.0.0.5}\n",
        "line 6, backend: address: got '10.0.0.5', which has no port; allowed: host:port of a cluster's head node, such as 10.0.0.5:6379; auto (the cluster that runs here); local",
    ),
    (
        "backend: {name: ray, cpus: 2}\n",
        "line 6, backend: backend 'ray' has no option 'cpus' (did you mean 'num_cpus'?); its options: address, num_cpus, num_gpus, grace_s, idle_s, refresh_s, connect_s, autoscale, weight, priority",
    ),
    (
        "backend: {weight: 0}\n",
        "line 6, backend: weight: got 0; a number above 0 is wanted: 2 has twice the share of 1",
    ),
    (
        "backend: {name: ray, priority: high}\n",
        "line 6, backend: priority: got 'high'; a whole number is wanted: 0 for most, more for who goes first",
    ),
    (
        "backend: {autoscale: 0}\n",
        "line 6, backend: autoscale: got 0; true, false, or the number of trials that are asked for",
    ),
    (
        "backend: {connect_s: never}\n",
        "line 6, backend: connect_s: got 'never'; a number of seconds is wanted, at least 0",
    ),
    (
        "name: a/b\n",
        "line 6, name: got 'a/b'; up to 100 letters, digits, '.', '_' and '-' are allowed, a letter or digit first",
    ),
    (
        "reuse_workers: off\n",
        "line 6, reuse_workers: YAML 1.1 reads the bare word off as false; write 'off' or false",
    ),
    (
        "budget: {trials: 1}\nbudget: {trials: 2}\n",
        "line 7, budget: given twice; the first is in line 6",
    ),
    (
        "checkpoint: {every: 0.5}\n",
        "line 6, checkpoint.every: got 0.5 (a number); a whole number is wanted",
    ),
    (
        "budget: {trials: 10\n",
        "line 7 is not YAML: expected ',' or '}', but got '<stream end>'",
    ),
    (
        "\tname: x\n",
        "line 6 is not YAML: found character '\\t' that cannot start any token: 'name: x'; indent with spaces, not tabs",
    ),
    (
        "version: 1\nentrypoint: a:b\nobjective: [{metric: a, mode: min}, {metric: b, mode: max}]\nschedule: asha\n",
        "line 4, schedule: ASHA ranks trials by one number; there are 2 (a, b): use the scheduler mo_asha or fifo, "
        "or judge one metric",
    ),
    (
        "just some text",
        "a spec is keys and values, such as `version: 1`; got 'just some text' (text)",
    ),
    (
        "searcher: tpee\n",
        "line 6, searcher: there is no searcher 'tpee' (did you mean 'tpe'?); known: random, grid, optuna, tpe, gp, cmaes, nsgaii, nsgaiii, qmc, bohb, screen, evolution, cqr, forest, portfolio, bo, mfes, dehb, turbo, priorband",
    ),
    (
        "seed: seven\nscheduler: {name: asha, min: one}\n",
        "2 problems\n  line 6, seed: got 'seven' (text); a whole number is wanted\n  line 7, scheduler: asha: min must be a number, got 'one'",
    ),
    (
        "search: {seed: 1}\nseed: 2\n",
        "line 7, seed: is given twice: also as search.seed, which means the same",
    ),
    (
        "metric: loss\n",
        "line 6, metric: is given twice: also as objective, which means the same",
    ),
    (
        "version: 1\ntrainable: a:b\nmetric: [a, 3]\nmode: [min, up]\n",
        "2 problems\n  line 3, metric[1]: got 3 (a whole number); text is wanted\n  line 4, mode[1]: got 'up' (text); allowed: min, max",
    ),
    (
        "version: 1\ntrainable: a:b\nmetric: a\n",
        "line 1, objective.mode: is missing; write for example mode: min",
    ),
    (
        "store_patience: -1\ngrace: soon\n",
        '2 problems\n  line 6, store_patience: got -1; a duration must not be negative\n  line 7, grace: got \'soon\'; a duration is a number of seconds or text such as "90s", "1h30m" or "2d"',
    ),
    (
        "sheduler: asha\nbudget: {trials: -5}\n",
        "2 problems\n  line 6, sheduler: unknown key (did you mean 'schedule'?); known: version, name, if_exists, description, tags, entrypoint, objective, space, constraints, search, schedule, budget, resources, stop, on_bad_metric, checkpoint, retries, storage, backend, step_timeout, reuse_workers, keep_warm, own_folder, grace, store_patience, misfit_after, node_patience, progress, log_to_driver, log_limit, track\n  line 7, budget.trials: got -5; must be at least 1",
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistake_is_explained(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text if "entrypoint" in text or text.startswith(("just", "version")) else GOOD + text)
    with pytest.raises(SpecError) as raised:
        load_spec(path)
    assert str(raised.value) == f"spec.yaml: {message}"
    assert "pydantic" not in message


def test_the_good_spec_is_good(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD)
    assert load_spec(path).metric == "loss"
