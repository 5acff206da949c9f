"""Which nodes a step works on: sections, patterns of names, ranges, and what is left out."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence

import onnx

from models.errors import RecipeError
from models.sections import node_sections
from models.steps.graph import decode_nodes
from models.steps.kinds import DECODE

_RANGE = ".."
_SHOWN = 3


def left_out(
    model: onnx.ModelProto, only: Sequence[str], exclude: Sequence[str], order: Sequence[str] = ()
) -> list[str]:
    """Names of the nodes that a step leaves as they are, in the graph's order.

    An entry of either list is a section of the network, the word `decode`, a shell-style
    pattern of node names, or a range `A..B`: the nodes from A to B in `order`, which is the
    graph's own where it is not given. No `only` means all nodes. Nodes are chosen by name, never
    by operator: excluding Sigmoid would also take every SiLU. Raises RecipeError for an entry
    that chooses nothing, `decode` excepted.
    """
    names = [node.name for node in model.graph.node]
    chooser = _Chooser(model, names, order or names)
    chosen = chooser.union("only", only) if only else set(names)
    spared = chooser.union("exclude", exclude)
    return [name for name in names if name not in chosen or name in spared]


class _Chooser:
    """The nodes that an entry names, in one graph."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], order: Sequence[str]) -> None:
        self._model = model
        self._names = names
        self._places = {name: place for place, name in enumerate(order)}
        self._sections = _by_section(node_sections(model))

    def union(self, where: str, entries: Sequence[str]) -> set[str]:
        return {name for entry in entries for name in self._choose(where, entry)}

    def _choose(self, where: str, entry: str) -> set[str]:
        if entry == DECODE:
            return decode_nodes(self._model.graph)
        if entry in self._sections:
            return self._sections[entry]
        if _RANGE in entry:
            return self._range(where, entry)
        matched = {name for name in self._names if fnmatch.fnmatchcase(name, entry)}
        if matched:
            return matched
        if entry.isidentifier():
            known = ", ".join((*self._sections, DECODE))
            raise RecipeError(
                f"{where}: no section {entry!r} in this network; it has {known}"
                + ("" if self._sections else ", for its file and its node names tell no others")
                + f"; or give patterns of node names such as {self._examples()}"
            )
        raise RecipeError(
            f"{where}: pattern {entry!r} matches none of the node names, which are like "
            f"{self._examples()}"
        )

    def _range(self, where: str, entry: str) -> set[str]:
        first, _, last = entry.partition(_RANGE)
        for name in (first, last):
            if name not in self._places:
                near = difflib.get_close_matches(name, self._places, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise RecipeError(f"{where}: range {entry!r}: no node is called {name!r}{hint}")
        low, high = self._places[first], self._places[last]
        if low > high:
            raise RecipeError(f"{where}: range {entry!r}: {first!r} comes after {last!r}")
        return {name for name in self._names if low <= self._places.get(name, -1) <= high}

    def _examples(self) -> str:
        step = max(1, len(self._names) // _SHOWN)
        return ", ".join(self._names[::step][:_SHOWN])


def _by_section(sections: Mapping[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, section in sections.items():
        found.setdefault(section, set()).add(name)
    return found
