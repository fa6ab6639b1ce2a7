"""Constraints between parameters: Python functions of the config, or text such as `min_lr < max_lr`.

Text is parsed once and walked by a small evaluator that knows numbers, strings, arithmetic, comparisons,
`and`, `or`, `not`, `in` and names; a dotted name (`optimizer.lr`) reads a nested dict. Nothing is ever passed
to `eval`, so a spec file cannot run code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tune_platform.errors import SpecError, did_you_mean

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
#: Characters and depth of a text, the largest exponent, and the largest whole number by its bits.
_LONGEST, _DEEPEST, _LARGEST_POWER, _LARGEST_BITS = 2000, 50, 100, 1024


class Constraint:
    """A condition that every config must meet. `text` names it in messages.

    One that reads a parameter which the config does not have (its condition is not met) is satisfied.
    """

    def __init__(self, rule: str | Callable[[Mapping[str, Any]], bool]) -> None:
        self._function: Callable[[Mapping[str, Any]], bool] | None = None
        self._condition: Callable[[_Values], Any] | None = None
        self.names: frozenset[str] = frozenset()  #: the dotted names that a text reads; none for a function
        if isinstance(rule, str):
            self.text = rule
            tree, self.names = _parse(rule)
            self._condition = _compiled(tree)
        elif callable(rule):
            self.text = str(getattr(rule, "__qualname__", None) or repr(rule))
            self._function = rule
        else:
            raise SpecError(f"constraint {rule!r}: a text such as 'low < high' or a function of the config is needed")

    def __repr__(self) -> str:
        return f"Constraint({self.text!r})"

    def check_names(self, known: Collection[str]) -> None:
        """Raise SpecError when the text reads a name that is not in `known` (dotted names)."""
        for name in sorted(self.names - set(known)):
            hint = did_you_mean(name, known)
            raise SpecError(f"constraint {self.text!r}: there is no parameter {name!r}{hint}")

    def satisfied(self, config: Mapping[str, Any]) -> bool:
        """Tell whether the config meets the constraint. SpecError when that cannot be computed."""
        try:
            if self._function is not None:
                return bool(self._function(config))
            values = {name: lookup(config, name) for name in self.names}
            assert self._condition is not None
            return bool(self._condition(values))
        except _Absent:
            return True
        except KeyError as error:
            if self._function is not None and error.args and not _has(config, error.args[0]):
                return True
            raise SpecError(f"constraint {self.text!r} failed on {dict(config)!r}: {error!r}") from error
        except ZeroDivisionError:
            return False
        except SpecError as error:
            raise SpecError(f"constraint {self.text!r}: {error}") from error
        except Exception as error:
            raise SpecError(f"constraint {self.text!r} failed on {dict(config)!r}: {error!r}") from error

    def meets(self, values: Mapping[str, Any]) -> bool:
        """Tell whether values meet a text, given by the dotted `names` that it reads.

        Not met is what cannot be computed, such as a text beside a number.
        """
        assert self._condition is not None, "a function has no names"
        try:
            return bool(self._condition(values))
        except (ArithmeticError, SpecError, TypeError, ValueError):
            return False


class _Absent(Exception):  # noqa: N818 (a signal inside this file)
    pass


def lookup(config: Mapping[str, Any], name: str) -> Any:
    """Return the value at a dotted name of a nested config."""
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise _Absent(name)
        value = value[part]
    return value


def _has(config: Mapping[str, Any], key: Any) -> bool:
    """Tell whether the key occurs anywhere in the config: then a KeyError was about something else."""
    return key in config or any(isinstance(value, Mapping) and _has(value, key) for value in config.values())


def _parse(text: str) -> tuple[ast.expr, frozenset[str]]:
    if len(text) > _LONGEST:
        raise SpecError(f"constraint {text[:40]!r}...: at most {_LONGEST} characters are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SpecError(f"constraint {text!r} is not an expression: {error}") from error
    names: set[str] = set()
    _check(tree, text, names, 0)
    return tree, frozenset(names)


def _check(node: ast.AST, text: str, names: set[str], depth: int) -> None:
    """Raise on anything but the small language, and collect the names."""
    if depth > _DEEPEST:
        raise SpecError(f"constraint {text[:40]!r}...: is nested deeper than {_DEEPEST}")
    name = _dotted(node)
    if name is not None:
        names.add(name)
        return
    children: list[ast.AST]
    match node:
        case ast.Constant(value=int(value)) if value.bit_length() > _LARGEST_BITS:
            raise SpecError(f"constraint {text[:40]!r}: a whole number has more than {_LARGEST_BITS} bits")
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            children = []
        case ast.BinOp() if type(node.op) in _BINARY:
            children = [node.left, node.right]
        case ast.UnaryOp() if type(node.op) in _UNARY or isinstance(node.op, ast.Not):
            children = [node.operand]
        case ast.BoolOp():
            children = list(node.values)
        case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
            children = [node.left, *node.comparators]
        case ast.Tuple() | ast.List():
            children = list(node.elts)
        case _:
            part = ast.get_source_segment(text.strip(), node) or type(node).__name__
            raise SpecError(
                f"constraint {text!r}: {part!r} is not allowed; names, numbers, texts, + - * / // % **, "
                "comparisons, in, and, or, not and parentheses are"
            )
    for child in children:
        _check(child, text, names, depth + 1)


def _dotted(node: ast.AST) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


_Values = Mapping[str, Any]


def _compiled(node: ast.expr) -> Callable[[_Values], Any]:
    """Return a function of the values by dotted name: the tree is walked once, not for each config."""
    match node:
        case ast.Constant(value=value):
            return lambda values: value
        case ast.BoolOp(op=op):
            items = [_compiled(item) for item in node.values]
            if isinstance(op, ast.And):
                return lambda values: all(item(values) for item in items)
            return lambda values: any(item(values) for item in items)
        case ast.UnaryOp(op=op):
            operand = _compiled(node.operand)
            if isinstance(op, ast.Not):
                return lambda values: not operand(values)
            unary = _UNARY[type(op)]
            return lambda values: unary(_number(operand(values)))
        case ast.BinOp(op=op):
            left, right = _compiled(node.left), _compiled(node.right)
            return lambda values: _arithmetic(op, left(values), right(values))
        case ast.Compare():
            return _comparison(node)
        case ast.Tuple() | ast.List():
            members = [_compiled(item) for item in node.elts]
            return lambda values: [member(values) for member in members]
    name = _dotted(node) or ""
    return lambda values: values[name]


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    left, right = _number(left), _number(right)  # numbers only: 'a' * 10**9 would fill the memory
    if isinstance(op, ast.Pow) and abs(right) > _LARGEST_POWER:
        raise SpecError(f"exponents beyond {_LARGEST_POWER} are not allowed, seen {right!r}")
    found = _BINARY[type(op)](left, right)
    if isinstance(found, int) and found.bit_length() > _LARGEST_BITS:
        raise SpecError(f"a whole number has more than {_LARGEST_BITS} bits; write floats, such as 10.0 ** 90")
    return found


def _comparison(node: ast.Compare) -> Callable[[_Values], bool]:
    first, compare = _compiled(node.left), _COMPARE[type(node.ops[0])]
    rest = [(_COMPARE[type(op)], _compiled(item)) for op, item in zip(node.ops, node.comparators, strict=True)]
    if len(rest) == 1:
        second = rest[0][1]
        return lambda values: compare(first(values), second(values))

    def chain(values: _Values) -> bool:
        left = first(values)
        for compare, item in rest:
            right = item(values)
            if not compare(left, right):
                return False
            left = right
        return True

    return chain


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):
        raise SpecError(f"arithmetic needs numbers, seen {value!r}")
    return value
