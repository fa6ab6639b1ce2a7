"""Small typed values of a spec (numbers, durations), and problems told in the words of whoever wrote it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from tune_platform.errors import SpecError, did_you_mean
from tune_platform.location import without_secrets
from tune_platform.protocol.text import NO_UNICODE, is_unicode

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: What a key is called in Ray Tune or in other tools, or belongs to.
_ELSEWHERE: Mapping[str, Sequence[str]] = {
    "program": ["entrypoint"],
    "metric": ["objective"],
    "mode": ["objective"],
    "goal": ["mode"],
    "parameters": ["space"],
    "search_alg": ["search"],
    "num_samples": ["budget"],
    "max_concurrent": ["concurrency", "budget"],
    "time_budget_s": ["time", "budget"],
    "start_points": ["initial"],
    "seed": ["search"],
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?))?b")
_LEAST_SIZE = 4096  # a line that says what was left out, and some lines
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
#: What looks like a number but is text to YAML 1.1, which wants both the point and the exponent's sign.
_EXPONENT = re.compile(r"([-+]?)(\d+)\.?(\d*)[eE]([-+]?)(\d+)")


class _InWords(type(BaseModel)):  # type: ignore[misc]
    """Has a model that a person makes tell what is wrong in our words; inside another, that one tells it."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        if args:
            raise SpecError(f"{cls.__name__} takes keywords only: {', '.join(cls.keys())}")
        try:
            return super().__call__(**values)
        except ValidationError as error:
            raise spec_error(problems_of(error, cls), cls.__name__) from None


if TYPE_CHECKING:  # type checkers see the fields
    _Base = BaseModel
else:
    _Base = _InWords("_Base", (BaseModel,), {"__module__": __name__})


class Strict(_Base):
    """A frozen model that knows all its keys; built when first used, which keeps the import quick."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, defer_build=True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).model_fields:
            raise SpecError(f"{type(self).__name__}.{name} cannot be changed; make a new one with the other value")
        super().__setattr__(name, value)

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys in the order in which people are told of them."""
        return list(cls.model_fields)


class Problem(NamedTuple):
    """One thing that is wrong: the key it is about, as a path, and what to say."""

    path: tuple[str | int, ...]
    text: str

    @property
    def where(self) -> str:
        """The path as a person writes it: `search.initial[0]`."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")


# ------------------------------------------------------------------------------------------ values


def describe(value: Any) -> str:
    """Return a short text for a value that was not wanted, with its kind."""
    if value is None:
        return "nothing"
    try:
        text = without_secrets(repr(value))
    except Exception:  # a number of thousands of digits, or an object of somebody else's
        text = f"an unprintable {type(value).__name__}"
    text = text if len(text) <= 60 else text[:57] + "..."
    kinds: Sequence[tuple[Any, str]] = (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (Mapping, "keys and values"),
        ((list, tuple), "a list"),
    )
    return f"{text} ({next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)})"


def yaml_number(text: str) -> str | None:
    """Return how to write `1e-4` so that YAML 1.1 reads a number (`1.0e-4`); None for other text."""
    match = _EXPONENT.fullmatch(text)
    if match is None:
        return None
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    return f"{sign}{whole}.{fraction or '0'}e{exponent_sign or '+'}{exponent}"


def number(value: Any) -> float:
    """Take a finite number, of numpy too. Raises SpecError for anything else, text included."""
    if isinstance(value, str):
        better = yaml_number(value)
        hint = f"; YAML reads that as text: write {better}" if better else ""
        if not better and re.fullmatch(r"[-+]?\d+(\.\d*)?", value):
            hint = "; remove the quotes"
        raise SpecError(f"got {describe(value)}; a number is wanted{hint}")
    try:
        if isinstance(value, bool):
            raise TypeError
        taken = float(value)
    except (TypeError, ValueError):
        raise SpecError(f"got {describe(value)}; a number is wanted") from None
    except OverflowError:
        raise SpecError(f"got {describe(value)}; that is more than a float holds") from None
    if not math.isfinite(taken):
        raise SpecError(f"got {value}; a finite number is wanted")
    return taken


def whole(value: Any) -> int:
    """Take a whole number, of numpy too. Raises SpecError for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        if isinstance(value, bool):
            raise TypeError
        taken = operator.index(value)
        if taken.bit_length() > 64:
            raise SpecError(f"got {describe(value)}; that is beyond 64 bits")
        return taken
    except TypeError:
        hint = "; remove the quotes" if isinstance(value, str) and value.isdigit() else ""
        raise SpecError(f"got {describe(value)}; a whole number is wanted{hint}") from None


def seconds(value: Any) -> float:
    """Take a duration above zero: seconds, a timedelta, or text such as "90s", "1h30m", "2d". Raises SpecError."""
    taken = wait(value)
    if taken == 0:
        raise SpecError(f"got {value!r}; a duration must be above zero")
    return taken


def wait(value: Any) -> float:
    """Take how long to wait for something, as `seconds` does; zero is not at all. Raises SpecError."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        text = value.replace(" ", "").lower()
        if not _DURATION.fullmatch(text):
            raise SpecError(f'got {value!r}; a duration is a number of seconds or text such as "90s", "1h30m" or "2d"')
        taken = sum(float(amount) * _UNITS[unit] for amount, unit in re.findall(r"([\d.]+)([smhd])", text))
    else:
        taken = number(value)
    if not math.isfinite(taken):
        raise SpecError(f"got {describe(value)}; that is more than a float holds")
    if taken < 0:
        raise SpecError(f"got {value!r}; a duration must not be negative")
    return taken


def moment(value: Any) -> str:
    """Take a point in time: a datetime, or text such as "2026-12-01 18:00" or with its zone "2026-12-01T18:00+01:00".

    Returns it with its zone, which is that of this machine where none is given. Raises SpecError.
    """
    taken = value
    if isinstance(value, str):
        try:
            taken = datetime.fromisoformat(value.strip())
        except ValueError:
            taken = None
    if not isinstance(taken, datetime) or (isinstance(value, str) and len(value.strip()) <= len("2026-12-01")):
        raise SpecError(
            f'got {describe(value)}; a date with a time is wanted, such as "2026-12-01 18:00" or '
            '"2026-12-01T18:00+01:00"; for a duration there is `time`'
        )
    return (taken if taken.tzinfo else taken.astimezone()).isoformat()


def size(value: Any) -> int:
    """Take an amount of bytes, 4096 at least: a whole number, or text such as "50 MB" or "1 GiB". Raises SpecError."""
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip().lower())
        if found is None:
            raise SpecError(f'got {value!r}; a size is a number of bytes or text such as "500 kB", "100 MB" or "1 GiB"')
        base = 1024 if found[3] else 1000
        value = int(float(found[1]) * base ** " kmgt".index(found[2] or " "))
    taken = whole(value)
    if taken < _LEAST_SIZE:
        raise SpecError(f"got {value!r}; a size must be at least {_LEAST_SIZE} bytes")
    return taken


def text(value: str) -> str:
    """Return text that can be written to files and tables; raises SpecError for half of a surrogate pair."""
    if not is_unicode(value):
        raise SpecError(NO_UNICODE.format(value))
    return value


Text = Annotated[str, AfterValidator(text)]
Number = Annotated[float, BeforeValidator(number)]
Whole = Annotated[int, BeforeValidator(whole)]
Amount = Annotated[float, BeforeValidator(number), Field(ge=0)]
Count = Annotated[int, BeforeValidator(whole), Field(ge=1)]
Natural = Annotated[int, BeforeValidator(whole), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(seconds, json_schema_input_type=float | str)]
Wait = Annotated[float, BeforeValidator(wait, json_schema_input_type=float | str)]
Above = Annotated[float, BeforeValidator(number), Field(gt=0)]
Moment = Annotated[str, BeforeValidator(moment)]
Size = Annotated[int, BeforeValidator(size, json_schema_input_type=int | str)]


# ------------------------------------------------------------------------------------------ problems


def hint(word: str, known: Iterable[str]) -> str:
    """Return ' (did you mean ...?)'; other cases of letters, longer forms and names from elsewhere count."""
    known = list(known)
    for candidate in known:
        if word.lower().startswith(candidate.lower()) or candidate in _ELSEWHERE.get(word, ()):
            return f" (did you mean {candidate!r}?)"
    return did_you_mean(word, known)


def unknown_key(word: str, known: Sequence[str]) -> str:
    """Return the text for a key that is not one of `known`."""
    return f"unknown key{hint(word, known)}; known: {', '.join(known)}"


def check_keys(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise SpecError for the first key that is not one of `known`."""
    for key in given:
        if key not in known:
            raise SpecError(f"unknown key {key!r}{hint(str(key), known)}; known: {', '.join(known)}")


def problems_of(error: ValidationError, model: type[Strict]) -> list[Problem]:
    """Return pydantic's findings about `model` as problems, one for each key."""
    return [Problem(tuple(found["loc"]), _text(found, model)) for found in error.errors(include_url=False)]


def spec_error(problems: Sequence[Problem], title: str) -> SpecError:
    """Return one error that tells all `problems`, each on a line of its own when there are several."""
    lines = [f"{problem.where}: {problem.text}" if problem.path else problem.text for problem in problems]
    if len(lines) == 1:
        return SpecError(f"{title}: {lines[0]}")
    return SpecError(f"{title}: {len(lines)} problems\n" + "\n".join(f"  {line}" for line in lines))


def _text(found: ErrorDetails, model: type[Strict]) -> str:
    value, context = found["input"], found.get("ctx", {})
    match found["type"]:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            return unknown_key(str(found["loc"][-1]), _block_at(model, found["loc"][:-1]).keys())
        case "missing":
            field = _block_at(model, found["loc"][:-1]).model_fields[str(found["loc"][-1])]
            example = f"; write for example {field.examples[0]}" if field.examples else ""
            return f"is missing{example}"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
            return f"got {describe(value)}; allowed: {', '.join(allowed)}{hint(str(value), allowed)}"
        case "greater_than_equal":
            return f"got {value!r}; must be at least {context['ge']}"
        case "greater_than":
            return f"got {value!r}; must be above {context['gt']}"
        case "less_than":
            return f"got {value!r}; must be below {context['lt']}"
        case "model_type" | "model_attributes_type":
            keys = ", ".join(_block_at(model, found["loc"]).keys())
            return f"got {describe(value)}; keys and values are wanted: {keys}"
    wanted = {
        "string_type": "text is",
        "bool_type": "true or false is",
        "dict_type": "keys and values are",
        "mapping_type": "keys and values are",
        "list_type": "a list is",
        "tuple_type": "a list is",
    }.get(found["type"])
    return f"got {describe(value)}; {wanted} wanted" if wanted else f"got {describe(value)}; {found['msg']}"


def _block_at(model: type[Strict], path: Sequence[str | int]) -> type[Strict]:
    """Return the model of the block at `path`."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[Strict] | None:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


# ------------------------------------------------------------------------------------------ plain data


def leaves(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key; lists and empty mappings are values."""
    if not isinstance(data, Mapping) or not data:
        return {prefix: data}
    found: dict[str, Any] = {}
    for key, value in data.items():
        found.update(leaves(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def live_objects(data: Mapping[str, Any]) -> list[str]:
    """Return what `SearchSpec.to_dict` could only name: "search (my_module:MySearcher)"."""
    return list(_live(data, ""))


def _live(data: Any, key: str) -> Iterator[str]:
    if isinstance(data, Mapping):
        alone = key == "search" or len(data) == 1  # the search block has keys of its own beside the searcher
        if alone and ":" in str(data.get("python")):
            yield f"{key} ({data['python']})"
        elif key.startswith("space") and data.get("type") == "function":
            yield f"{key} (the function {data.get('name')})"
        else:
            for name, value in data.items():
                yield from _live(value, f"{key}.{name}" if key else str(name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _live(value, f"{key}[{index}]")
