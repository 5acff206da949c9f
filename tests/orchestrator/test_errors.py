from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path

import pytest

from agent.wire import BenchError, Failure, FailureKind
from orchestrator import errors

ROOT = Path(errors.__file__).parents[1]
DRAWN = re.compile(r"^ *[│├└─ ]*(\w+) (\d+)(?: |$)", re.MULTILINE)


def modules_with_error_classes() -> list[str]:
    sources = (
        path
        for package in ("agent", "models", "orchestrator", "results")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^    exit_code(: int)? = \d", path.read_text(), re.MULTILINE)
    )
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources)


def classes() -> dict[str, type[BenchError]]:
    modules = set(modules_with_error_classes())
    for name in modules:
        importlib.import_module(name)
    found: dict[str, type[BenchError]] = {}

    def walk(cls: type[BenchError]) -> None:
        if cls.__module__.split(".")[0] in {"agent", "models", "orchestrator", "results"}:
            assert cls.__module__ in modules, f"{cls.__name__} has no exit code of its own"
            found[cls.__name__] = cls
        for child in cls.__subclasses__():
            walk(child)

    walk(BenchError)
    return found


def test_the_table_of_exit_codes_has_every_class_that_can_end_the_program() -> None:
    """The table lists all classes of all packages but those that never leave the board."""
    listed = {name for _, name, _ in errors.exit_codes()}
    own = {name for name, cls in classes().items() if cls.__module__ == "agent.errors"}
    assert len(listed) > 30
    assert listed == set(classes()) - own


def test_each_class_has_an_exit_code_of_its_own() -> None:
    """No two error classes share an exit code, and none uses a code that means something else."""
    codes = sorted((cls.exit_code, name) for name, cls in classes().items())
    shared = [(a, b) for a, b in itertools.pairwise(codes) if a[0] == b[0]]
    assert not shared
    assert not {0, 2, 126, 127, 141} & {code for code, _ in codes}
    for cls in classes().values():
        assert "exit_code" in vars(cls), f"{cls.__name__} inherits its exit code"
        assert 0 < cls.exit_code <= 130


def test_the_drawn_tree_is_the_true_one() -> None:
    """The drawing in the module's docstring has every class, with its code, under its base."""
    drawing = errors.__doc__ or ""
    assert dict(DRAWN.findall(drawing)) == {
        cls.__name__: str(cls.exit_code) for cls in classes().values()
    }
    parents: list[tuple[int, str]] = []
    for line in drawing.splitlines():
        match = DRAWN.match(line)
        if match is None:
            continue
        depth = match.start(1)
        parents = [parent for parent in parents if parent[0] < depth]
        if parents:
            assert classes()[match[1]].__base__ is classes()[parents[-1][1]]
        parents.append((depth, match[1]))


def test_every_class_explains_itself() -> None:
    """Each error class has a first docstring line for the table in the README."""
    for code, name, line in errors.exit_codes():
        assert line.endswith((".", ":")) or len(line) > 10, (code, name)
        assert "\n" not in line


@pytest.mark.parametrize("kind", list(FailureKind))
def test_every_failure_of_a_board_becomes_an_error_with_its_message(kind: FailureKind) -> None:
    """A failure of each kind becomes an error that names the board and keeps the message."""
    error = errors.from_failure(Failure(kind, "0.4 of 1.0 GB are free"), "pi5")
    assert str(error) == "pi5: 0.4 of 1.0 GB are free"
    assert error.exit_code > 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FailureKind.LEASE_HELD, errors.LeaseHeld),
        (FailureKind.DISK_FULL, errors.BoardDiskFull),
        (FailureKind.OUT_OF_MEMORY, errors.OutOfMemory),
        (FailureKind.WORKER_KILLED, errors.WorkerKilled),
        (FailureKind.TOO_LARGE, errors.ModelTooLarge),
        (FailureKind.MODEL_LOAD, errors.ModelRefused),
        (FailureKind.DEADLINE, errors.TrialDeadline),
        (FailureKind.DIGEST_MISMATCH, errors.TransferFailed),
        (FailureKind.RUNTIME_MISSING, errors.PackagesMissing),
        (FailureKind.PROTOCOL, errors.ProtocolMismatch),
        (FailureKind.INTERRUPTED, errors.AgentDied),
        (FailureKind.CANCELLED, errors.Interrupted),
    ],
)
def test_failures_that_users_act_on_have_classes_of_their_own(
    kind: FailureKind, expected: type[BenchError]
) -> None:
    """What a user would do something about is told apart by class, and so by exit code."""
    assert type(errors.from_failure(Failure(kind, "why"), "pi5")) is expected


def test_a_board_failure_knows_its_board() -> None:
    """A board's failure holds the board's name, also for code that groups failures."""
    error = errors.BoardUnreachable("no route to host", "pi3b")
    assert (error.board, str(error)) == ("pi3b", "pi3b: no route to host")
    assert errors.BoardFailure("nothing answers").board is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("p15", "pi5"), ("PI5", "pi5"), ("pi3", "pi3b"), ("zebra", None), ("", None)],
)
def test_nearest_finds_a_mistyped_name(name: str, expected: str | None) -> None:
    """A name with a slip finds the known one, a wholly different one finds none."""
    assert errors.nearest(name, ["pi5", "pi3b", "local"]) == expected


def test_an_unknown_name_is_answered_with_the_nearest_and_all() -> None:
    """The message for an unknown name has the nearest known one and the list of all."""
    error = errors.unknown_name("board", "p15", ["pi5", "local"])
    assert str(error) == "no board 'p15'; did you mean 'pi5'? (known: local, pi5)"
    assert str(errors.unknown_name("label", "x", [])) == "no label 'x' (known: none)"
