"""YAML without surprises: the pitfalls of YAML 1.1 are problems with a line number, not silent misreadings.

Refused are keys given twice, `1e-4` (text to YAML 1.1) and the bare words `yes`, `no`, `on`, `off` (truth
values to it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from tune_platform.errors import SpecError
from tune_platform.location import without_secrets
from tune_platform.spec.values import Problem, describe, yaml_number

#: Characters of a file; values in it, each counted as often as it is referred to; lists within each other.
LARGEST, MOST, DEEPEST = 4 * 10**6, 100_000, 50

KeyPath = tuple[str | int, ...]
Lines = Mapping[KeyPath, int]


class Document(NamedTuple):
    """A file's content, the line (from 1) of each of its keys, and what is wrong with it as YAML.

    `written`: where a key of the content stands in the file, if it is another's word for it (see `words`).
    """

    data: dict[str, Any]
    lines: Lines
    problems: list[Problem]
    written: Mapping[KeyPath, KeyPath] = MappingProxyType({})


def read(path: Path) -> Document:
    """Read a file of one mapping. Raises SpecError where there is none to read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    return parse(text, path.name)


def parse(text: str, title: str = "spec") -> Document:
    """Parse `text`; `title` stands for it in messages. Raises SpecError for a syntax error, with its line."""
    if len(text) > LARGEST:
        raise SpecError(f"{title}: is larger than {LARGEST // 10**6} MB, which no spec is")
    try:
        _check_depth(text, title)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(root, title)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{title}: {_syntax(error, text)}") from None
    except SpecError:
        raise
    except ValueError as error:  # a number of thousands of digits, or a date that there is not
        raise SpecError(f"{title}: a value cannot be read: {error}") from None
    if not isinstance(root, yaml.MappingNode) or not isinstance(data, dict):
        raise SpecError(f"{title}: a spec is keys and values, such as `version: 1`; got {describe(data)}")
    lines: dict[KeyPath, int] = {}
    return Document(data, lines, list(_walk(root, (), lines)))


def _check_depth(text: str, title: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise SpecError(f"{title}: line {line}: nested deeper than {DEEPEST}, which no spec needs")


def _check_size(root: yaml.Node | None, title: str) -> None:
    """Raise SpecError for a file that a few aliases blow up, or that refers to itself; each node is seen once."""
    sizes: dict[int, tuple[int, int]] = {}  # of each node: values and depth, once it has been seen whole
    path: dict[int, None] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        known = sizes.get(id(node))
        if known is not None:
            return known
        line = node.start_mark.line + 1
        if id(node) in path:
            raise SpecError(f"{title}: line {line}: an anchor refers to itself")
        path[id(node)] = None
        count, depth = 1, 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        for part in inner:
            for child in part if isinstance(part, tuple) else (part,):
                below, deep = measure(child)
                count, depth = count + below, max(depth, deep + 1)
        del path[id(node)]
        if count > MOST:
            raise SpecError(f"{title}: line {line}: more than {MOST:,} values, counting each alias; no spec needs that")
        if depth > DEEPEST:
            raise SpecError(f"{title}: line {line}: nested deeper than {DEEPEST}, which no spec needs")
        sizes[id(node)] = count, depth
        return sizes[id(node)]

    if root is not None:
        measure(root)


def with_lines(problems: list[Problem], lines: Lines) -> list[Problem]:
    """Return the problems in the order of the file, each beginning with its line."""

    def line(problem: Problem) -> int:
        path = problem.path
        while path and path not in lines:
            path = path[:-1]
        return lines.get(path, 0)

    return [
        Problem((f"line {at}, {p.where}",) if at else p.path, p.text)
        for at, p in sorted(((line(p), p) for p in problems), key=lambda pair: pair[0] or 10**9)
    ]


def _walk(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Iterator[Problem]:
    lines.setdefault(path, node.start_mark.line + 1)
    if not isinstance(node, yaml.ScalarNode) and not node.tag.endswith((":map", ":seq")):
        yield Problem(
            path, f"is written as {node.tag.rpartition(':')[2]}, which no spec holds; write a list or a mapping"
        )
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner in lines:
                yield Problem(inner, f"given twice; the first is in line {lines[inner]}")
                lines[inner] = key.start_mark.line + 1
                continue
            lines[inner] = key.start_mark.line + 1
            yield from _walk(value, inner, lines)
            yield from _pitfall(key, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*path, index), lines)
    else:
        yield from _pitfall(node, path)


def _pitfall(node: yaml.Node, path: KeyPath) -> Iterator[Problem]:
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":binary"):
        yield Problem(path, "is written as binary, which no spec holds; write text or numbers")
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:  # quoted: meant as it is
        return
    if node.tag.endswith(":timestamp") and path != ("budget", "deadline"):
        yield Problem(path, f"YAML reads {node.value} as a date; write '{node.value}', which is text")
    if node.tag.endswith(":bool") and node.value.lower() not in ("true", "false"):
        truth = str(node.value.lower() in ("yes", "on", "y")).lower()
        yield Problem(
            path,
            f"YAML 1.1 reads the bare word {node.value} as {truth}; write '{node.value}' or {truth}",
        )
    elif node.tag.endswith(":str") and (better := yaml_number(node.value)):
        yield Problem(path, f"YAML 1.1 reads {node.value} as text; write {better} (or quotes, if text is meant)")


def _syntax(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    said = str(getattr(error, "problem", None) or error)
    if mark is None:
        return f"is not YAML: {said}"
    lines = text.splitlines()
    shown = f": {without_secrets(lines[mark.line].strip())!r}" if mark.line < len(lines) else ""
    tab = "; indent with spaces, not tabs" if "\\t" in said else ""
    return f"line {mark.line + 1} is not YAML: {said}{shown}{tab}"
