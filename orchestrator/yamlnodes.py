"""Documents put together before they are read: pure functions on YAML nodes, which keep lines."""

from __future__ import annotations

import yaml


def child(node: yaml.Node, name: str) -> yaml.Node | None:
    """The value of a mapping's key; None where the node is no mapping or has no such key."""
    if not isinstance(node, yaml.MappingNode):
        return None
    found = [value for key, value in node.value if key.value == name]
    return found[0] if found else None


def keys(node: yaml.Node | None) -> tuple[str, ...]:
    """The keys of a mapping; none where the node is none."""
    if not isinstance(node, yaml.MappingNode):
        return ()
    return tuple(key.value for key, _ in node.value)


def merged(base: yaml.Node, over: yaml.Node) -> yaml.Node:
    """`base` with the entries of `over`: mappings are merged, everything else is replaced.

    Nodes keep their lines, so that a later complaint names the line that is at fault.
    """
    if not (isinstance(base, yaml.MappingNode) and isinstance(over, yaml.MappingNode)):
        return over
    changed = {key.value: (key, value) for key, value in over.value}
    entries = [
        (key, merged(value, changed.pop(key.value)[1]) if key.value in changed else value)
        for key, value in base.value
    ]
    return yaml.MappingNode(base.tag, [*entries, *changed.values()], base.start_mark, base.end_mark)


def without(node: yaml.Node, name: str) -> yaml.Node:
    """A mapping less one key; other nodes as they are."""
    if not isinstance(node, yaml.MappingNode):
        return node
    kept = [(key, value) for key, value in node.value if key.value != name]
    return yaml.MappingNode(node.tag, kept, node.start_mark, node.end_mark)
