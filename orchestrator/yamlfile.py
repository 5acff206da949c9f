"""YAML files into frozen msgspec structs, with errors that say where, what and what instead.

The text is composed into nodes, which know their lines; the nodes are then read by the types of
the struct's fields. Tags other than YAML's plain ones, duplicate keys, anchors within themselves
and aliases that multiply into huge documents are refused.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin

import msgspec
import yaml

from agent.wire import BenchError
from orchestrator.errors import nearest
from orchestrator.text import printable

MAX_BYTES: Final = 1 << 20
MAX_NODES: Final = 20_000
"""Most values in a document after its aliases are written out."""

_PLAIN: Final = "tag:yaml.org,2002:"
_MERGE: Final = _PLAIN + "merge"
_NAMES: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "NoneType": "nothing",
}
_MSGSPEC_NAMES: Final = {"array": "list", "object": "dict", "null": "NoneType"}
_YAML_KINDS: Final = {"seq": "a list", "map": "a mapping", "null": "nothing"}

S = TypeVar("S", bound=msgspec.Struct)


def load(
    path: Path,
    kind: type[S],
    error: type[BenchError],
    overlay: Callable[[yaml.Node], yaml.Node] | None = None,
) -> S:
    """Read `path` as a `kind`; raises `error` with file, line, field, found and expected.

    A `ValueError` raised by `kind.__post_init__` is given the place of that mapping; its text
    may start with `field: ` to point at one of its fields. `overlay` may change the document
    beforehand (see yamlnodes); its ValueError is given the document's place.
    """
    reader = _Reader(path, error)
    root = reader.compose()
    if overlay is not None:
        try:
            root = overlay(root)
        except ValueError as exc:
            reader.fail(root, (), str(exc))
    return cast(S, reader.struct(root, kind, ()))


@dataclass(frozen=True)
class _Reader:
    """Reads the nodes of one file by types."""

    path: Path
    error: type[BenchError]

    def compose(self) -> yaml.Node:
        try:
            data = self.path.read_bytes()
        except OSError as exc:
            raise self.error(f"{self.path}: cannot be read: {exc.strerror}") from exc
        if len(data) > MAX_BYTES:
            raise self.error(f"{self.path}: {len(data)} bytes; at most {MAX_BYTES} are read")
        try:
            root = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as exc:
            raise self.error(f"{self.path}: not UTF-8 text: byte {exc.start}") from exc
        except RecursionError as exc:
            raise self.error(f"{self.path}: nested too deeply") from exc
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise self.error(f"{self.path}{line}: not YAML: {exc.problem or exc}") from exc
        except (yaml.YAMLError, ValueError) as exc:
            raise self.error(f"{self.path}: not YAML: {exc}") from exc
        if root is None:
            raise self.error(f"{self.path}: the file is empty")
        self._count(root, {}, set())
        return root

    def _count(self, node: yaml.Node, known: dict[int, int], parents: set[int]) -> int:
        """How many values `node` stands for, aliases written out; refuses too many."""
        key = id(node)
        if key in parents:
            self.fail(node, (), "an anchor holds itself")
        if key not in known:
            parents.add(key)
            total = 1 + sum(self._count(child, known, parents) for child in _children(node))
            parents.discard(key)
            if total > MAX_NODES:
                self.fail(node, (), f"more than {MAX_NODES} values after aliases are followed")
            known[key] = total
        return known[key]

    def fail(self, node: yaml.Node, field: tuple[str, ...], problem: str) -> NoReturn:
        where = f"{self.path}:{node.start_mark.line + 1}"
        name = f" {printable('.'.join(field))}:" if field else ""
        raise self.error(f"{where}:{name} {printable(problem)}")

    def struct(self, node: yaml.Node, kind: type[msgspec.Struct], field: tuple[str, ...]) -> Any:
        pairs = self._pairs(node, field, "a mapping")
        known = {info.encode_name: info for info in msgspec.structs.fields(kind)}
        for name, (key, _) in pairs.items():
            if name not in known:
                self.fail(key, (*field, name), _unknown(name, tuple(known)))
        for info in known.values():
            if info.required and info.encode_name not in pairs:
                self.fail(node, (*field, info.encode_name), "this field is missing")
        values = {
            known[name].name: self.value(child, known[name].type, (*field, name))
            for name, (_, child) in pairs.items()
        }
        try:
            return kind(**values)
        except ValueError as exc:
            culprit, _, problem = str(exc).partition(": ")
            if problem and culprit in pairs:
                self.fail(pairs[culprit][1], (*field, culprit), problem)
            self.fail(node, field, str(exc))

    def value(self, node: yaml.Node, kind: Any, field: tuple[str, ...]) -> Any:
        """`node` as a `kind`: a struct, mapping, tuple, scalar, Literal or a union of these."""
        if kind is Any:
            return self._anything(node, field)
        kind = self._choose(node, kind)
        origin, args = get_origin(kind), get_args(kind)
        if _is_struct(kind):
            return self.struct(node, kind, field)
        if origin is dict:
            pairs = self._pairs(node, field, "a mapping")
            return {
                name: self.value(child, args[1], (*field, name))
                for name, (_, child) in pairs.items()
            }
        if origin is tuple:
            if not isinstance(node, yaml.SequenceNode):
                self.fail(node, field, f"expected a list, found {_found(node)}")
            return tuple(
                self.value(child, args[0], (*field, str(index)))
                for index, child in enumerate(node.value)
            )
        return self._leaf(node, kind, field)

    def _anything(self, node: yaml.Node, field: tuple[str, ...]) -> Any:
        """A value that others check: mappings as dicts, lists as tuples, plain scalars."""
        if isinstance(node, yaml.MappingNode):
            return self.value(node, dict[str, Any], field)
        if isinstance(node, yaml.SequenceNode):
            return self.value(node, tuple[Any, ...], field)
        return self._leaf(node, str | int | float | bool | None, field)

    def _choose(self, node: yaml.Node, kind: Any) -> Any:
        """The member of a union that fits the node's shape; other kinds unchanged."""
        if get_origin(kind) not in (Union, types.UnionType):
            return kind
        members = get_args(kind)
        for member in members:
            if isinstance(node, yaml.MappingNode) and _is_mapping(member):
                return member
            if isinstance(node, yaml.SequenceNode) and get_origin(member) is tuple:
                return member
        scalars = tuple(m for m in members if not _is_mapping(m) and get_origin(m) is not tuple)
        if set(scalars) == {type(None)} and node.tag != _PLAIN + "null":
            return members[0]
        return Union[scalars]  # noqa: UP007 - built at run time

    def _leaf(self, node: yaml.Node, kind: Any, field: tuple[str, ...]) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            self.fail(node, field, f"expected {_expected(kind)}, found {_found(node)}")
        plain = self._scalar(node, field)
        if isinstance(plain, float) and not math.isfinite(plain):
            self.fail(node, field, f"expected {_expected(kind)}, found {_found(node)}")
        try:
            return msgspec.convert(plain, kind, strict=True)
        except msgspec.ValidationError as exc:
            problem = f"expected {_expected(kind)}, found {_found(node)}"
            limit = re.match(r"Expected `\w+` ([<>]=? [-\d.]+)", str(exc))
            if limit:
                problem = f"expected {_expected(kind)} {limit[1]}, found {_found(node)}"
            elif isinstance(plain, str):
                match = nearest(plain, [str(word) for word in _literals(kind)])
                problem += f"; did you mean '{match}'?" if match else ""
            elif "text" in _expected(kind):
                problem += "; put it in quotes"
            self.fail(node, field, problem)

    def _scalar(self, node: yaml.ScalarNode, field: tuple[str, ...]) -> Any:
        if node.tag == _PLAIN + "timestamp":
            return node.value
        if node.tag not in {_PLAIN + kind for kind in ("null", "bool", "int", "float", "str")}:
            self.fail(node, field, f"the tag {node.tag} is not read here")
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as exc:
            self.fail(node, field, f"cannot be read: {exc}")

    def _pairs(
        self, node: yaml.Node, field: tuple[str, ...], expected: str
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key text -> (key node, value node); merge keys (`<<`) give way to plain ones."""
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, field, f"expected {expected}, found {_found(node)}")
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, child in node.value:
            if key.tag == _MERGE:
                parts = child.value if isinstance(child, yaml.SequenceNode) else [child]
                for part in parts:
                    merged = {**self._pairs(part, field, "a mapping to merge"), **merged}
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.fail(key, field, f"expected a name before ':', found {_found(key)}")
            if key.value in own:
                first = own[key.value][0].start_mark.line + 1
                self.fail(key, (*field, key.value), f"stands twice, first in line {first}")
            own[key.value] = (key, child)
        return {**merged, **own}


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is dict or _is_struct(kind)


def _unknown(name: str, known: tuple[str, ...]) -> str:
    match = nearest(name, known)
    guess = f"did you mean '{match}'? " if match else ""
    return f"there is no such field; {guess}(known: {', '.join(known)})"


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _PLAIN + "null":
            return "nothing"
        return f"'{node.value}'"
    return _YAML_KINDS["map" if isinstance(node, yaml.MappingNode) else "seq"]


def _literals(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for member in get_args(kind) for word in _literals(member)]


def _expected(kind: Any) -> str:
    """`kind` in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(word) for word in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(member) for member in args if member is not type(None))
    if _is_mapping(kind):
        return "a mapping"
    if hasattr(kind, "__metadata__"):
        return _expected(args[0])
    name = getattr(origin or kind, "__name__", str(kind))
    return _NAMES.get(name, name)
