"""The exact state of a gymnasium environment as plain values, so that a resumed run equals an uninterrupted one.

gymnasium has no interface for this. An environment is a chain of wrappers around a core, and each link keeps its
state in attributes (`state` in classic control, `_elapsed_steps` in the time limit, a random generator), MuJoCo
besides in its own structure. `capture` takes all that is plain from each link. Whether that is everything is not
believed but tried out, once for each environment: see `method_for`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

#: Ways to save an environment, best first; "none" means that episodes start anew when a trial is resumed.
METHODS = ("attributes", "pickle", "none")
#: Fields of MjData that are resized from step to step: constraints and contacts, which each step finds anew.
_RESIZED = ("efc_", "iefc_", "efm_", "contact", "island_", "map_")

Env = gym.Env[Any, Any]


def capture(env: Env, method: str) -> Any:
    """Return the state of `env` as values that `torch.save` keeps without pickling objects of any class."""
    if method == "attributes":
        return [_link_state(link) for link in _links(env)]
    if method == "pickle":
        return torch.frombuffer(bytearray(pickle.dumps(env)), dtype=torch.uint8)
    return None


def restore(env: Env, state: Any, method: str) -> Env:
    """Give `env` the captured state; return it, or the environment that stands in its place.

    With "pickle" this runs what the file says, as unpickling does: load only checkpoints that you trust.
    """
    if method == "attributes":
        for link, values in zip(_links(env), state, strict=True):
            _restore_link(link, values)
        return env
    if method == "pickle":
        env.close()
        made: Env = pickle.loads(state.numpy().tobytes())
        return made
    return env


def method_for(make: Callable[[], Env]) -> str:
    """Return the first of METHODS that is exact for the environments that `make` builds.

    Two environments tell: one is stepped into some episode and captured, the other takes over its state, and then both
    must go through the same 60 random actions, with the same observations, rewards and resets, bit for bit.
    """
    for method in METHODS[:-1]:
        try:
            if _is_exact(make, method):
                return method
        except Exception:  # whatever an unknown environment objects to: it cannot be saved in this way
            continue
    return METHODS[-1]


def _is_exact(make: Callable[[], Env], method: str) -> bool:
    one, other = make(), make()
    one.action_space.seed(0)
    one.reset(seed=1)
    other.reset(seed=2)
    for _ in range(9):
        if _ended(one.step(one.action_space.sample())):
            one.reset()
    other = restore(other, _through_a_file(capture(one, method)), method)
    try:
        for _ in range(60):
            action = one.action_space.sample()
            mine, theirs = one.step(action), other.step(action)
            if not np.array_equal(mine[0], theirs[0]) or mine[1:4] != theirs[1:4]:
                return False
            if _ended(mine) and not np.array_equal(one.reset()[0], other.reset()[0]):
                return False
        return True
    finally:
        one.close()
        other.close()


def _ended(outcome: tuple[Any, ...]) -> bool:
    return bool(outcome[2] or outcome[3])


def _through_a_file(state: Any) -> Any:
    """Raise for what a checkpoint could not hold."""
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _links(env: Env) -> Iterator[Env]:
    """Yield the wrappers from outside to inside, and last the core."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def _link_state(link: Env) -> dict[str, Any]:
    values = {name: encoded for name, value in vars(link).items() if (encoded := _encode(value)) is not None}
    if (data := _mujoco_data(link)) is not None:
        values[":mujoco"] = _mujoco_state(link, data)
    return values


def _restore_link(link: Env, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name == ":mujoco":
            _restore_mujoco(link, _mujoco_data(link), value)
        elif value["kind"] == "generator":
            generator = getattr(link, name)
            if not isinstance(generator, np.random.Generator):
                generator = np.random.default_rng()
                setattr(link, name, generator)
            generator.bit_generator.state = value["value"]
        else:
            setattr(link, name, _decode(value))


def _encode(value: Any) -> dict[str, Any] | None:
    """Return `value` with its kind, or None where it is not plain (a space, a renderer, another environment)."""
    if isinstance(value, np.random.Generator):
        return {"kind": "generator", "value": value.bit_generator.state}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"kind": "array", "value": torch.tensor(value)}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"kind": "numpy", "value": torch.tensor(value)}
    if value is None or type(value) in (bool, int, float, str):
        return {"kind": "plain", "value": value}
    if type(value) in (tuple, list):
        items = [_encode(item) for item in value]
        return None if None in items else {"kind": type(value).__name__, "value": items}
    return None


def _decode(value: Mapping[str, Any]) -> Any:
    kind, inner = value["kind"], value["value"]
    if kind == "array":
        return inner.numpy().copy()
    if kind == "numpy":
        return inner.numpy()[()]
    if kind in ("tuple", "list"):
        items = [_decode(item) for item in inner]
        return tuple(items) if kind == "tuple" else items
    return inner


def _mujoco_data(link: Env) -> Any:
    data = vars(link).get("data")
    return data if type(data).__name__ == "MjData" else None


def _mujoco_state(link: Env, data: Any) -> dict[str, Any]:
    """The state that the simulation integrates, and all that it derives: some rewards are read from the last step's."""
    import mujoco

    model = vars(link)["model"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integrated = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, integrated, kind)
    derived = {
        name: torch.tensor(value)
        for name in dir(data)
        if not name.startswith(("_", *_RESIZED))
        and isinstance(value := getattr(data, name), np.ndarray)
        and value.dtype.kind == "f"
        and value.size
    }
    return {"integrated": torch.tensor(integrated), "derived": derived}


def _restore_mujoco(link: Env, data: Any, state: Mapping[str, Any]) -> None:
    import mujoco

    model = vars(link)["model"]
    mujoco.mj_setState(model, data, state["integrated"].numpy(), mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    # Forward has computed these for the present positions; after a step they are those of the positions before it.
    for name, value in state["derived"].items():
        array = getattr(data, name)
        if array.shape == tuple(value.shape):
            array[...] = value.numpy()
    mujoco.mj_setState(model, data, state["integrated"].numpy(), mujoco.mjtState.mjSTATE_INTEGRATION)
