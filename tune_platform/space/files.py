"""The form of a space in a spec file: nested mappings of plain values, strict about keys.

    lr:        {type: float, low: 1.0e-5, high: 1.0e-1, log: true}
    layers:    {type: int, low: 1, high: 8}                  # both included
    optimizer: {type: choice, values: [adam, sgd]}
    momentum:  {type: float, low: 0, high: 0.99, when: {optimizer: sgd}}
    epochs:    50

A mapping whose `type` is a text is a parameter; any other mapping is a nested dict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.protocol.configs import DICT, OBJECT, TUPLE, from_json
from tune_platform.space.domains import Categorical, Constant, Domain, Float, Grid, Int, Normal
from tune_platform.space.ray_domains import from_ray, is_ray_domain
from tune_platform.space.tree import When, has_domain, when
from tune_platform.space.values import form_of_dict, number_from_text, plain

#: for each type: how to build it, the keys it must have, the keys it may have
_TYPES: dict[str, tuple[Callable[..., Domain], tuple[str, ...], tuple[str, ...]]] = {
    "float": (Float, ("low", "high"), ("log", "step")),
    "int": (Int, ("low", "high"), ("log", "step")),
    "choice": (Categorical, ("values",), ()),
    "grid": (Grid, ("values",), ()),
    "normal": (Normal, ("mean", "sd"), ("step",)),
    "const": (Constant, ("value",), ()),
}
#: What distributions are called in other tools, and how they are written here.
_ELSEWHERE = {
    **dict.fromkeys(("uniform", "double"), "{type: float, low: ..., high: ...}"),
    **dict.fromkeys(
        ("loguniform", "log_uniform", "log_uniform_values"), "{type: float, low: ..., high: ..., log: true}"
    ),
    **dict.fromkeys(("quniform", "q_uniform"), "{type: float, low: ..., high: ..., step: ...}"),
    **dict.fromkeys(("randint", "int_uniform", "integer"), "{type: int, low: ..., high: ...}"),
    **dict.fromkeys(
        ("lograndint", "qrandint", "qlograndint"), "{type: int, low: ..., high: ...}, with log: true or step"
    ),
    **dict.fromkeys(("categorical", "discrete"), "{type: choice, values: [...]}"),
    **dict.fromkeys(("grid_search",), "{type: grid, values: [...]}"),
    **dict.fromkeys(("randn", "qrandn", "gaussian"), "{type: normal, mean: ..., sd: ...}"),
    **dict.fromkeys(("constant",), "{type: const, value: ...}"),
}
_YAML_PITFALL = re.compile(r"[-+]?\d+[eE][-+]?\d+")


def domain_from_dict(data: Mapping[str, Any], name: str) -> Domain:
    """Build the domain of one parameter (without its `when`); `name` is for messages."""
    kind = data.get("type")
    if kind == "function":
        raise SpecError(f"{name}: functions cannot be read from a file; build the space in Python")
    if kind not in _TYPES:
        meant = _ELSEWHERE.get(str(kind).lower())
        hint = f" (write {meant})" if meant else did_you_mean(str(kind), _TYPES)
        raise SpecError(
            f"{name}: there is no parameter type {kind!r}{hint}; there are {', '.join(_TYPES)}. "
            f"For a dict with a key `type` of its own, write `type: {{type: const, value: {kind}}}`"
        )
    build, needed, optional = _TYPES[kind]
    given = {key: value for key, value in data.items() if key != "type"}
    for key in given:
        if key not in needed + optional:
            hint = did_you_mean(str(key), needed + optional)
            raise SpecError(f"{name}: type {kind} has no key {key!r}{hint}; it has {', '.join(needed + optional)}")
    missing = [key for key in needed if key not in given]
    if missing:
        raise SpecError(f"{name}: type {kind} needs {' and '.join(missing)}")
    if not isinstance(given.get("log", False), bool):
        raise SpecError(f"{name}: log must be true or false, seen {given['log']!r}")
    if "values" in given:
        if not isinstance(given["values"], list | tuple):
            raise SpecError(f"{name}: values must be a list, seen {given['values']!r}")
        given["values"] = tuple(_option(value, name) for value in given["values"])
    if "value" in given:
        given["value"] = from_json(given["value"])
    if given.get("step", 0) is None:
        del given["step"]
    try:
        return build(**given)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from error


def space_from_dict(data: Any, name: str = "the space") -> Any:
    """Turn the file form of a space, or of a part of it, into a param_space."""
    if isinstance(data, Mapping):
        if len(data) == 1 and data.keys() <= {TUPLE, DICT, OBJECT}:
            return _in_words(data, name)
        if isinstance(data.get("type"), str):
            form = dict(data)
            conditions = from_json(form.pop("when", None))
            domain = domain_from_dict(form, name)
            return domain if conditions is None else when(domain, conditions)
        within = "" if name == "the space" else f"{name}/"
        return {key: space_from_dict(item, f"{within}{key}") for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [space_from_dict(item, f"{name}/{i}") for i, item in enumerate(data)]
    return _not_a_number_in_disguise(data, name)


def perhaps_parameters(space: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names of fixed dicts that look like a parameter in another tool's words, and how to write that here."""
    if not isinstance(space, Mapping):
        return
    for key, item in space.items():
        path = f"{name}/{key}" if name else str(key)
        word = str(next(iter(item))).lower() if isinstance(item, Mapping) and len(item) == 1 else ""
        if (word in _TYPES or word in _ELSEWHERE) and not has_domain(item):
            needed = ", ".join(f"{each}: ..." for each in _TYPES[word][1]) if word in _TYPES else ""
            yield path, _ELSEWHERE.get(word, f"{{type: {word}, {needed}}}")
        else:
            yield from perhaps_parameters(item, path)


def _in_words(data: Mapping[str, Any], name: str) -> Any:
    """Read what YAML has no word for; see `protocol.configs`."""
    ((word, inner),) = data.items()
    if word == TUPLE and isinstance(inner, list):
        return tuple(space_from_dict(inner, name))
    if word == DICT and isinstance(inner, list) and all(isinstance(item, list) and len(item) == 2 for item in inner):
        return {from_json(key): space_from_dict(item, f"{name}/{key}") for key, item in inner}
    if word == OBJECT and isinstance(inner, str):
        try:
            return from_json(dict(data))
        except SpecError as error:
            raise SpecError(f"{name}: {error}") from None
    wanted = {TUPLE: "a list", DICT: "a list of pairs [key, value]", OBJECT: '"module:name"'}[word]
    raise SpecError(f"{name}: {word} takes {wanted}, seen {inner!r}")


def _option(value: Any, name: str) -> Any:
    """Read one value of a choice: a plain value, or a branch with parameters in it."""
    read = space_from_dict(value, name)
    return read.value if isinstance(read, Constant) else read


def _not_a_number_in_disguise(value: Any, name: str) -> Any:
    if isinstance(value, str) and _YAML_PITFALL.fullmatch(value.strip()):
        advice = number_from_text(value)
        raise SpecError(
            f"{name}: {value!r} is text, not a number{advice}; "
            f"for the text itself write {{type: const, value: {value!r}}}"
        )
    return value


def space_to_dict(value: Any) -> Any:
    """Turn a param_space, or a part of it, into its file form. What files cannot hold is shown by name."""
    if is_ray_domain(value):
        value = from_ray(value)
    if isinstance(value, When):
        form = _as_parameter(value.value)
        return {**form, "when": {name: _condition(allowed) for name, allowed in value.conditions.items()}}
    if isinstance(value, Categorical):
        return {"type": value.kind, "values": [_option_to_dict(option) for option in value.values]}
    if isinstance(value, Domain):
        return value.to_dict()
    if isinstance(value, Mapping):
        if set(value) == {"grid_search"}:
            return Grid(value["grid_search"]).to_dict()
        return form_of_dict([(key, _nested(str(key), item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        items = [space_to_dict(item) for item in value]
        return {TUPLE: items} if isinstance(value, tuple) else items
    return _plain_or_const(value)


def _as_parameter(value: Any) -> dict[str, Any]:
    form = space_to_dict(value)
    if isinstance(form, dict) and isinstance(form.get("type"), str):
        return form
    if has_domain(value):  # a conditional dict of parameters: a choice with one branch says the same
        return {"type": "choice", "values": [form]}
    return {"type": "const", "value": plain(value)}


def _nested(key: str, value: Any) -> Any:
    if key == "type" and isinstance(value, str):
        return {"type": "const", "value": value}  # else the dict around it would read as a parameter
    return space_to_dict(value)


def _option_to_dict(option: Any) -> Any:
    return space_to_dict(option) if isinstance(option, Mapping) or has_domain(option) else _plain_or_const(option)


def _plain_or_const(value: Any) -> Any:
    if isinstance(value, str) and _YAML_PITFALL.fullmatch(value.strip()):
        return {"type": "const", "value": value}
    return plain(value)


def _condition(allowed: tuple[Any, ...]) -> Any:
    return plain(allowed[0]) if len(allowed) == 1 else plain(list(allowed))
