"""What a torch.export archive may hold before torch is let at it.

torch.export.load unpickles parts of an archive, loads native libraries from it, evaluates the
text of symbolic shapes and turns names of the graph into Python source. None of that is needed
for what this project exports: static shapes, plain tensors, ATen operators. So an archive is
refused unless it holds exactly that kind of thing, by a list of what is allowed.

The archive is read by torch's own reader, the one that loads it, and its names by Python's too:
where both read the same file differently, the stricter answer counts.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from agent.errors import Refused
from agent.wire import FailureKind

MAX_JSON_BYTES: Final = 64 << 20
"""Of the graph's description; that of yolov9c has 1 MB."""

_GRAPH: Final = "models/model.json"
_TABLES: Final = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_SAMPLES: Final = "data/sample_inputs/model.pt"
_TENSOR: Final = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_OTHERS: Final = (
    "archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id",
    ".format_version", ".storage_alignment",
)  # fmt: skip

_WORD: Final = re.compile(r"[A-Za-z0-9_.+]*")
"""Every text of the graph: nothing that could become more than a name in Python source."""
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR: Final = re.compile(r"torch\.ops\.aten\.([a-z0-9_]+)\.([A-Za-z0-9_]+)")
_FORBIDDEN_OPERATORS: Final = ("from_file", "set_", "set_data", "resize_", "as_strided_")
"""ATen's few operators that open files or give a tensor other memory."""
_KINDS: Final = (
    "none tensor tensors int ints float floats bool bools string strings scalar_type "
    "memory_format layout device optional_tensor optional_tensors nested_tensors"
)
_ARGUMENTS: Final = frozenset(f"as_{kind}" for kind in _KINDS.split())
_EMPTY: Final = ("guards_code", "range_constraints", "sym_int_values", "sym_bool_values")
_EMPTY_TOO: Final = ("sym_float_values", "custom_obj_values", "treespec_namedtuple_fields")
_SPECS: Final = ("in_spec", "out_spec")
_CONTAINERS: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def require_plain(path: Path, torch: Any) -> None:
    """Pass when the archive holds tensors and ATen operators only; raises Refused (model_load)."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))  # noqa: SLF001 - what torch.load uses itself
        records = list(reader.get_all_records())
        with zipfile.ZipFile(path) as zipped:
            names = zipped.namelist()
    except (RuntimeError, OSError, zipfile.BadZipFile, ValueError) as exc:
        _refuse(f"it is damaged or no torch.export archive ({_first_line(exc)})")
    _check_names(records, names)

    def read(name: str) -> Any:
        return _parsed(reader.get_record(name), name)

    if len(reader.get_record(_SAMPLES)) != 0:
        _refuse(f"{_SAMPLES} is not empty, and torch would unpickle it")
    for table in _TABLES:
        _check_table(read(table), table)
    _check_graph(read(_GRAPH))


def _check_names(records: list[str], names: list[str]) -> None:
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or len(set(names)) != len(names):
        _refuse("its files do not lie in one folder, each once")
    inside = [name.partition("/")[2] for name in names]
    if sorted(inside) != sorted(records):
        _refuse("two readers find different files in it")
    known = {_GRAPH, _SAMPLES, *_TABLES, *_OTHERS}
    for name in records:
        if name not in known and not _TENSOR.fullmatch(name):
            _refuse(f"it holds {name!r}, which is neither tensors nor their graph")
    absent = {_GRAPH, _SAMPLES, *_TABLES} - set(records)
    if absent:
        _refuse(f"it lacks {', '.join(sorted(absent))}")


def _parsed(data: bytes, name: str) -> Any:
    if len(data) > MAX_JSON_BYTES:
        _refuse(f"{name} has {len(data):,} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        _refuse(f"{name}: {_first_line(exc)}")


def _check_table(table: Any, name: str) -> None:
    """Where the tensors lie: as numbers, not as pickles."""
    if not isinstance(table, dict) or not isinstance(table.get("config"), dict):
        _refuse(f"{name}: no table of tensors")
    for entry in table["config"].values():
        where = entry.get("path_name", "") if isinstance(entry, dict) else ""
        folder = name.rpartition("/")[0]
        if not isinstance(where, str) or not _TENSOR.fullmatch(f"{folder}/{where}"):
            _refuse(f"{name}: {where!r} is no tensor's file")
        if entry.get("use_pickle") is not False:
            _refuse(f"{name}: {where} is pickled, and unpickling runs what is in it")
    _walk(table, _check_pair)


def _check_graph(program: Any) -> None:
    """Names, operators and arguments; nothing that torch would evaluate."""
    if not isinstance(program, dict):
        _refuse(f"{_GRAPH}: no graph")
    _walk(program, _check_pair)


def _check_pair(key: str, value: Any) -> None:
    """One entry of an object anywhere in the description."""
    if key == "target" and not _allowed(value):
        _refuse(f"operator {value!r} is not one of ATen's that may be used")
    if key in (*_EMPTY, *_EMPTY_TOO) and value:
        _refuse(f"{key} is not empty, and torch would evaluate it")
    if key == "metadata" and value:
        _refuse("a node has metadata, which torch would look up in its modules")
    if key in ("as_expr", "expr_str"):
        _refuse(f"a shape is the expression {value!r}, which torch would evaluate")
    if key.startswith("as_") and key not in _ARGUMENTS and value is not None:
        _refuse(f"an argument of kind {key}")
    if key == "name" and not (isinstance(value, str) and _IDENTIFIER.fullmatch(value)):
        _refuse(f"the name {str(value)[:80]!r} is no identifier")
    if key in _SPECS:
        _check_spec(value)
    elif isinstance(value, str):
        _check_word(value)


def _allowed(target: Any) -> bool:
    found = _OPERATOR.fullmatch(target) if isinstance(target, str) else None
    return found is not None and found[1] not in _FORBIDDEN_OPERATORS


def _check_spec(text: Any) -> None:
    """How inputs and outputs are nested: tuples, lists and dicts by plain names."""
    parsed = _parsed(text.encode(), "a nesting") if isinstance(text, str) else None
    if not isinstance(parsed, list):
        _refuse("a nesting of inputs or outputs is no list")

    def check(key: str, value: Any) -> None:
        if key == "type" and value not in _CONTAINERS:
            _refuse(f"inputs or outputs are nested in a {value!r}")
        if key == "context" and value is not None:
            context = _parsed(str(value).encode(), "a nesting")
            if not isinstance(context, list | None):
                _refuse("a nesting has a context that is no list of names")
            _walk(context, lambda _key, name: _check_word(str(name)))

    _walk(parsed, check)


def _check_word(text: str) -> None:
    if not _WORD.fullmatch(text):
        _refuse(f"the text {text[:80]!r} is no plain name")


def _walk(tree: Any, check: Callable[[str, Any], None]) -> None:
    """Call `check` with every key and value, and with '' and each text of a list."""
    for key, value in _pairs(tree):
        _check_word(key)
        check(key, value)


def _pairs(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every entry of every object and list within, without recursion: its depth is a stranger's."""
    rest = [tree]
    while rest:
        node = rest.pop()
        children = node.items() if isinstance(node, dict) else (("", item) for item in node or ())
        for key, value in children:
            yield key, value
            if isinstance(value, dict | list):
                rest.append(value)


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def _refuse(reason: str) -> NoReturn:
    raise Refused(
        FailureKind.MODEL_LOAD,
        f"this archive is not loaded: {reason}; build it again with `orchestrator build`",
    )
