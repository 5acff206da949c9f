from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator import yamlfile
from orchestrator.errors import ExperimentError


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    mode: Literal["fast", "slow"] = "fast"
    user: str | None = None

    def __post_init__(self) -> None:
        if self.user == "root":
            raise ValueError("user: expected anyone but root")
        if self.user == "nobody":
            raise ValueError("nobody is not welcome")


class Doc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    boards: dict[str, Inner] = {}
    labels: tuple[str, ...] = ()
    ratio: float = 0.5
    either: str | Inner | None = None
    on: bool = False


def load(folder: Path, text: str) -> Doc:
    path = folder / "doc.yaml"
    path.write_bytes(text.encode())
    return yamlfile.load(path, Doc, ExperimentError)


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ExperimentError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert message.startswith(str(folder / "doc.yaml"))
    return message.removeprefix(str(folder / "doc.yaml"))


def test_a_good_file_becomes_the_struct(tmp_path: Path) -> None:
    """A file of every kind of field becomes the struct with those values."""
    doc = load(
        tmp_path,
        "title: A\nboards:\n  pi5: {port: 22, mode: slow}\n  x: {}\nlabels: [a, b]\n"
        "ratio: 1\neither: {user: pi}\n'on': true\n",
    )
    assert doc == Doc(
        "A", {"pi5": Inner(22, "slow"), "x": Inner()}, ("a", "b"), 1.0, Inner(user="pi"), True
    )
    assert isinstance(doc.ratio, float)
    assert load(tmp_path, "title: A\neither: text\n").either == "text"
    assert load(tmp_path, "title: 2024-01-02\n").title == "2024-01-02"


def test_anchors_and_merges_are_followed(tmp_path: Path) -> None:
    """An alias stands for its anchor, and a merged mapping gives way to the fields beside it."""
    doc = load(
        tmp_path,
        "title: A\nboards:\n  a: &a {port: 1, mode: slow}\n  b: *a\n  c: {<<: *a, port: 3}\n",
    )
    assert doc.boards == {"a": Inner(1, "slow"), "b": Inner(1, "slow"), "c": Inner(3, "slow")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "title: A\nboards:\n  pi5:\n    port: many\n",
            ":4: boards.pi5.port: expected a whole number, found 'many'",
        ),
        (
            "title: A\nboards:\n  pi5:\n    port: 70000\n",
            ":4: boards.pi5.port: expected a whole number <= 65535, found '70000'",
        ),
        (
            "title: A\nboards:\n  pi5: {}\n  pi3b:\n    prot: 22\n",
            ":5: boards.pi3b.prot: there is no such field; did you mean 'port'? "
            "(known: port, mode, user)",
        ),
        (
            "title: A\nboards: {b: {mode: fats}}\n",
            ":2: boards.b.mode: expected one of fast, slow, found 'fats'; did you mean 'fast'?",
        ),
        ("labels: []\n", ":1: title: this field is missing"),
        ("title: 5\n", ":1: title: expected text, found '5'; put it in quotes"),
        ("title: yes\n", ":1: title: expected text, found 'yes'; put it in quotes"),
        ("title: A\nlabels: a\n", ":2: labels: expected a list, found 'a'"),
        ("title: A\nlabels: [a, [b]]\n", ":2: labels.1: expected text, found a list"),
        ("title: A\nboards: [a]\n", ":2: boards: expected a mapping, found a list"),
        ("title: A\nboards:\n", ":2: boards: expected a mapping, found nothing"),
        ("title: A\nratio: .nan\n", ":2: ratio: expected a number, found '.nan'"),
        ("title: A\nratio: -.inf\n", ":2: ratio: expected a number, found '-.inf'"),
        ("title: A\nratio: high\n", ":2: ratio: expected a number, found 'high'"),
        ("title: A\n'on': 1\n", ":2: on: expected true or false, found '1'"),
        ("title: A\neither: [1]\n", ":2: either: expected text, found a list"),
        ("title: A\ntitle: B\n", ":2: title: stands twice, first in line 1"),
        ("title: A\nboards: {a: {user: root}}\n", ":2: boards.a.user: expected anyone but root"),
        ("title: A\nboards: {a: {user: nobody}}\n", ":2: boards.a: nobody is not welcome"),
        ("just text\n", ":1: expected a mapping, found 'just text'"),
        ("title: A\n? [1, 2]\n: b\n", ":2: expected a name before ':', found a list"),
        ("title: !!python/name:os.system\n", ":1: title: the tag tag:yaml.org,2002:python/"),
        ("title: !mine x\n", ":1: title: the tag !mine is not read here"),
        ('title: "a\\e[31mb"\nboards: "\\e[2J"\n', ":2: boards: expected a mapping, found '\\x1b"),
        ("title: [A\n", ":2: not YAML: "),
        ("title: *a\n", ":1: not YAML: found undefined alias"),
        ("title: A\n--- \ntitle: B\n", ":2: not YAML: "),
        ("", ": the file is empty"),
        ("# only a comment\n", ": the file is empty"),
        ("title: \x00\n", ": not YAML: "),
    ],
)
def test_bad_input_is_answered_with_line_field_found_and_expected(
    tmp_path: Path, text: str, expected: str
) -> None:
    """Each kind of mistake gives file, line, path of the field, what was found and expected."""
    assert problem(tmp_path, text).startswith(expected)


def test_an_alias_bomb_is_refused_quickly(tmp_path: Path) -> None:
    """Aliases that multiply into billions of values are refused before they are written out."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "more than 20000 values" in problem(tmp_path, "\n".join(lines))


def test_an_anchor_within_itself_is_refused(tmp_path: Path) -> None:
    """A document that holds itself is refused instead of followed for ever."""
    assert "an anchor holds itself" in problem(tmp_path, "title: A\nboards: &a {x: *a}\n")
    assert "an anchor holds itself" in problem(tmp_path, "title: A\nboards: &a\n  <<: *a\n")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    """Thousands of nested lists end in a message, not in a crash."""
    assert "nested too deeply" in problem(tmp_path, "- " * 5000)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, a folder, a huge file and one that is not UTF-8 each say so."""
    path = tmp_path / "doc.yaml"
    with pytest.raises(ExperimentError, match="cannot be read: No such file"):
        yamlfile.load(path, Doc, ExperimentError)
    path.mkdir()
    with pytest.raises(ExperimentError, match="cannot be read: Is a directory"):
        yamlfile.load(path, Doc, ExperimentError)
    path.rmdir()
    path.write_bytes(b"title: \xff\xfe\n")
    with pytest.raises(ExperimentError, match="not UTF-8 text: byte 7"):
        yamlfile.load(path, Doc, ExperimentError)
    path.write_bytes(b"#" * (yamlfile.MAX_BYTES + 1))
    with pytest.raises(ExperimentError, match="1048577 bytes; at most 1048576"):
        yamlfile.load(path, Doc, ExperimentError)


WORDS = [
    "title",
    "boards",
    "port",
    "a",
    "1",
    "-1",
    ".nan",
    "0x1F",
    "1:30",
    "~",
    "yes",
    "<<",
    "=",
    "2024-01-02",
    "1e999",
    "!!int",
    "&a",
    "*a",
    ":",
    "-",
    "?",
    "{",
    "}",
    "[",
    "]",
    ",",
    "|",
    ">",
    "#",
    "'",
    '"',
    "\\",
    "%",
    "---",
    "\ufeff",
]
BLANKS = ["\n", "\n  ", "\t", " ", "9" * 30]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(st.sampled_from([*WORDS, *BLANKS]), max_size=25).map(" ".join))
@example("title: A\nratio: " + "9" * 5000 + "\n")
@example("title: A\nboards: {a: {port: " + "9" * 5000 + "}}\n")
@example("title: A\nratio: 1:30:99999999999999999999.5\n")
@example("title: A\nboards: {!!int x: {}}\n")
def test_any_text_is_read_or_refused_with_the_files_name(tmp_path: Path, text: str) -> None:
    """Whatever stands in a file, it becomes the struct or an error that names the file."""
    message = ""
    try:
        load(tmp_path, text)
    except ExperimentError as error:
        message = str(error)
    assert not message or message.startswith(str(tmp_path / "doc.yaml"))
