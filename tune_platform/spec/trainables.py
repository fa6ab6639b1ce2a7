"""What is a trainable: a subclass of `Trainable`, a function of the config, or the name of one."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.ray_tune.session import hold_parameters, is_ray_class
from tune_platform.resources import Resources
from tune_platform.spec.values import describe
from tune_platform.trainable import Trainable

#: The methods of a class that are called, with how many arguments.
_METHODS = {
    "setup": 1, "step": 0, "save_checkpoint": 1, "load_checkpoint": 1, "reset_config": 1, "cleanup": 0, "get_state": 0,
    "set_state": 1,
}  # fmt: skip
_WANTED = 'a subclass of Trainable, a function of the config or "module:name" is wanted'


def check_trainable(value: Any) -> Any:
    """Return a live trainable. Raises SpecError for what could not run a single trial."""
    if isinstance(value, Trainable):
        raise SpecError(f"got an object of {type(value).__qualname__}; give the class itself: each trial makes its own")
    if isinstance(value, types.ModuleType):
        raise SpecError(f"got the module {value.__name__}; {_WANTED}, such as {value.__name__}.train")
    if not callable(value):
        raise SpecError(f"got {describe(value)}; {_WANTED}")
    if isinstance(value, type):
        _check_class(value)
    else:
        _check_function(value)
    hold_parameters(value)
    return value


def check_saves(trainable: Any, scheduler: Any) -> None:
    """Raise SpecError for a trainable that cannot save, where the scheduler sends trials on from checkpoints."""
    if not getattr(scheduler, "needs_checkpoints", False):
        return
    if _reports_no_checkpoint(trainable):
        raise SpecError(
            f"with {type(scheduler).__name__} trials go on from checkpoints, but {_inner(trainable).__qualname__} "
            "reports none: write report(metrics, checkpoint=state), and begin from get_checkpoint() where there is one"
        )
    if saves_nothing(trainable):
        raise SpecError(
            f"with {type(scheduler).__name__} trials go on from checkpoints, but {trainable.__qualname__} "
            "saves none: write its save_checkpoint(directory) and load_checkpoint(directory), or its get_state() and "
            "set_state(state)"
        )


def check_workers(trainable: Any, workers: int) -> None:
    """Raise SpecError for several workers where a trial of the trainable would leave all but one idle."""
    why = getattr(trainable, "one_process", "")
    if workers > 1 and why:
        raise SpecError(
            f"got workers={workers}, but a trial of {trainable.__qualname__} trains in one process: {why}. Leave "
            "workers out: more trials run side by side instead"
        )


def check_growth(trainable: Any, resources: Resources, configs: Iterable[Mapping[str, Any]]) -> None:
    """Raise SpecError for gangs that are to grow where one of these configs has a training that cannot."""
    rigid = getattr(trainable, "rigid", None)
    if not resources.grow or resources.workers == 1 or rigid is None:
        return
    for config in configs:
        if why := rigid(config):
            raise SpecError(
                f"got grow: true, but a trial of {trainable.__qualname__} cannot go on with more workers: {why}. Leave "
                "grow out, or take that out of the space"
            )


def saves_nothing(trainable: Any) -> bool:
    """Whether it is a class of which no checkpoint can be written."""
    return (
        isinstance(trainable, type)
        and issubclass(trainable, Trainable)
        and trainable.get_state is Trainable.get_state
        and trainable.save_checkpoint is Trainable.save_checkpoint
    )


def _reports_no_checkpoint(trainable: Any) -> bool:
    """Whether it is a function whose own text reports, and never with a checkpoint; where that is not to be seen, no.

    It has to call `report` itself and do nothing else with it, with the metrics alone, and have no word of checkpoints.
    """
    inner = _inner(trainable)
    if not inspect.isfunction(inner) or getattr(inner, "__wrapped__", None) is not None:
        return False
    try:
        text = inspect.getsource(inner)
        tree = ast.parse(textwrap.dedent(text))
    except (OSError, SyntaxError):  # typed in at a prompt, or a lambda within a line
        return False
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _word(node.func) == "report"]
    named = [node for node in ast.walk(tree) if _word(node) == "report"]
    with_more = any(len(call.args) != 1 or call.keywords or isinstance(call.args[0], ast.Starred) for call in called)
    return bool(called) and len(named) == len(called) and not with_more and "checkpoint" not in text


def _word(node: ast.AST) -> str:
    """The last name of `report` or `tune.report`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _inner(trainable: Any) -> Any:
    """What a partial is of."""
    while isinstance(trainable, functools.partial):
        trainable = trainable.func
    return trainable


def _check_class(value: type) -> None:
    name = value.__qualname__
    if is_ray_class(value):
        return  # Ray Tune's own has defaults for all
    if not issubclass(value, Trainable):
        raise SpecError(
            f"the class {name} is not a subclass of tune_platform.Trainable, with setup and step of its own"
        )
    if value.step is Trainable.step:
        raise SpecError(f"the class {name} has no step(self), which trains a little and returns metrics")
    if inspect.isabstract(value):
        missing = ", ".join(sorted(getattr(value, "__abstractmethods__", ())))
        raise SpecError(f"the class {name} is abstract: {missing} is missing")
    if not _takes(value, 0):
        raise SpecError(f"the class {name} is made without arguments, but its __init__ needs some; use setup(config)")
    for method, count in _METHODS.items():
        found = getattr(value, method)
        if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
            raise SpecError(f"{name}.{method} is {_kind(found)}; it must be a plain method that returns")
        if not isinstance(inspect.getattr_static(value, method), staticmethod) and not _takes(found, count + 1):
            wanted = ", ".join(["self", *inspect.signature(getattr(Trainable, method)).parameters][: count + 2][1:])
            raise SpecError(f"{name}.{method}{_arguments(found)} cannot be called as {method}({wanted})")


def _check_function(value: Callable[..., Any]) -> None:
    inner = _inner(value)
    code = inner if inspect.isroutine(inner) else type(inner).__call__
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise SpecError(f"{name} is {_kind(code)}, which nobody awaits; write a plain function, and asyncio.run in it")
    asked = getattr(getattr(inner, "__code__", None), "co_names", ())
    if any(word.startswith("suggest_") for word in asked) and inner.__code__.co_varnames[:1] == ("trial",):
        raise SpecError(
            f"{name}(trial) is an Optuna objective, and trials are given their config here: write "
            f"optuna_objective({name}), from tune_platform.integrations (docs/from_optuna.md)"
        )
    if not _takes(value, 1):
        raise SpecError(
            f"{name}{_arguments(value)} cannot be called with the config alone: write {name}(config), and "
            "give what else it needs by functools.partial or in the space"
        )


def _takes(value: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with so many arguments; so it is taken where that is not to be known."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _arguments(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _kind(function: Any) -> str:
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    return "async" if inspect.iscoroutinefunction(function) else "a generator"
