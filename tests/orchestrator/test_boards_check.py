from __future__ import annotations

import json
import threading
import venv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.cli import desk, table
from support.clock import FakeClock
from support.sshd import Sshd
from support.terminal import narrow_to

from agent import wire
from agent.wire import Check
from orchestrator import census, cli
from orchestrator.boards import registry
from orchestrator.boards.base import Board, Session
from orchestrator.boards.fake import FakeAgent, FakeBoard
from orchestrator.checkscreen import WORDS
from orchestrator.checkup import MAX_CHECKS, Findings, clock_check, examine
from orchestrator.clock import SystemClock
from orchestrator.errors import BoardFailure, BoardUnreachable, LeaseHeld
from orchestrator.inventory import BoardEntry

OK = Check("userland", "ok", "64 bits", "")
UNKNOWN = Check("throttling", "unknown", "the firmware cannot be asked", "it takes a Raspberry Pi")
COMMAND = "`echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor`"
GOVERNOR = Check(
    "governor", "warn", "ondemand: the clock follows the load",
    f"on the board type (needs root, holds until it restarts) {COMMAND}",
)  # fmt: skip
POWER = Check(
    "power supply", "fail", "under-voltage now: the firmware lowers the clock", "a supply"
)
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)

Stand = Callable[..., Path]


def agent(*checks: Check, machine_id: str | None = None, serial: str | None = None) -> FakeAgent:
    return FakeAgent(SystemClock(), checks=checks or (OK,), machine_id=machine_id, serial=serial)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Puts arithmetic boards of these names into an inventory, behind ssh as it seems."""

    def made(**agents: FakeAgent) -> Path:
        lines = [f"  {name}:\n    address: {name}.local\n" for name in agents]
        (tmp_path / "inventory.yaml").write_text("boards:\n" + "".join(lines))
        monkeypatch.chdir(tmp_path)

        def board(entry: BoardEntry, *_: object) -> Board:
            return FakeBoard(entry.name, agents[entry.name])

        monkeypatch.setattr(registry, "make_board", board)
        return tmp_path

    return made


def check(*words: str) -> int:
    return cli.main(["boards", "check", *words])


def unreachable(name: str) -> FakeAgent:
    def refuse(_method: str) -> None:
        raise BoardUnreachable("there is no route", name)

    return FakeAgent(SystemClock(), sabotage=refuse)


def test_a_ready_board_is_one_line(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """A board without a fault has its line in the table and nothing else; the exit code is 0."""
    stand(pi5=agent(OK, UNKNOWN))
    assert check() == 0
    out = capsys.readouterr().out
    assert "userland" not in out
    (line,) = [line for line in out.splitlines() if line.startswith("pi5")]
    assert line.split("  ")[:1] == ["pi5"]
    assert "ready" in line
    assert "1 unknown" in line
    assert WORDS not in out


def test_warnings_are_shown_and_end_with_0(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning is shown with what was found and what to type; the board is still ready."""
    stand(pi5=agent(OK, GOVERNOR, UNKNOWN))
    assert check("pi5") == 0
    captured = capsys.readouterr()
    assert "warn     governor  ondemand: the clock follows the load" in captured.out
    assert COMMAND in captured.out
    assert "ready with warnings" in captured.out
    assert "userland" not in captured.out
    assert UNKNOWN.found not in captured.out
    assert WORDS in captured.out
    assert captured.err == ""


def test_verbose_shows_every_check(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """With --verbose all checks are shown, the worst first, and the clock that the host added."""
    stand(pi5=agent(OK, UNKNOWN, GOVERNOR, POWER))
    assert check("--verbose") == 53
    lines = capsys.readouterr().out.splitlines()
    states = [line.split()[0] for line in lines if line.startswith("  ") and "→" not in line]
    assert states == ["fail", "warn", "unknown", "ok", "ok"]
    assert any("clock" in line and "within 5 s" in line for line in lines)


def test_a_board_that_is_not_fit(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed check ends the command with 53, and stderr says which board and why."""
    stand(pi5=agent(OK), pi3b=agent(GOVERNOR, POWER))
    assert check() == 53
    captured = capsys.readouterr()
    assert "NOT FIT" in captured.out
    assert captured.err == f"Error: pi3b: not fit now: power supply: {POWER.found}\n"


def test_several_faults(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """Boards with different errors end the command with 50, and each is told."""
    stand(pi3b=agent(POWER), gone=unreachable("gone"))
    assert check() == 50
    captured = capsys.readouterr()
    assert "pi3b: not fit now" in captured.err
    assert "gone: there is no route" in captured.err
    assert "NO ANSWER" in captured.out
    assert "BoardUnreachable" in captured.out
    assert check("gone") == 30


def test_json(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """--json has every check of every board, errors as objects, and nothing else on stdout."""
    leased = agent(GOVERNOR, OK)
    leased.lease_holder = wire.LeaseRequest(holder="ann", run_id="r1", ttl_s=1e6)
    leased.lease_until_s = leased.clock.monotonic_s() + 1e6
    stand(pi5=leased, gone=unreachable("gone"))
    assert check("--json") == 30
    made = json.loads(capsys.readouterr().out)
    pi5, gone = made["boards"]
    assert (pi5["verdict"], pi5["error"], pi5["leased_by"]) == ("ready with warnings", None, "ann")
    assert pi5["fingerprint"]["board_model"] == "fake board"
    assert [one["name"] for one in pi5["checks"]] == ["governor", "userland", "clock"]
    assert pi5["checks"][0] == {
        "name": "governor", "state": "warn", "found": GOVERNOR.found, "fix": GOVERNOR.fix,
    }  # fmt: skip
    assert gone["verdict"] == "no answer"
    assert gone["error"]["class"] == "BoardUnreachable"
    assert gone["error"]["exit_code"] == 30
    assert made["warnings"] == []


@pytest.mark.parametrize("columns", [80, 120])
def test_width(
    stand: Stand,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    """No line is wider than the terminal but a command, which stays whole to be copied."""
    long = "x" * 30 + " and " * 40
    stand(
        pi5=agent(GOVERNOR, Check("other load", "warn", long, long)),
        pi3b=agent(*[Check(f"check {n}", "warn", "found", "") for n in range(9)]),
    )
    narrow_to(columns, monkeypatch)
    assert check() == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert all(len(line) <= columns for line in lines if COMMAND not in line)
    assert sum(COMMAND in line for line in lines) == 1
    assert any("pi3b" in line and "+6" in line for line in lines)


def test_many_boards_stay_readable(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 200 boards only the one with a fault has lines of its own."""
    agents = {f"b{n:03}": agent(OK, UNKNOWN) for n in range(199)}
    stand(**agents, bad=agent(OK, GOVERNOR))
    assert check() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 215
    assert lines[0] == "bad"


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\nError: \u202eevil"


def test_hostile_words_are_escaped(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a board writes, no control character of it reaches the screen or stderr."""
    liar = agent(Check(HOSTILE, "fail", HOSTILE, HOSTILE), Check("b", "warn", "[red]x[/red]", "`"))
    stand(pi5=liar)
    assert check("--verbose") == 53
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert not set(text) & {"\x1b", "\x07", "\r", "\u202e"}
        assert "\\x1b[2J" in text
    assert "[red]x[/red]" in captured.out


def test_a_board_that_never_stops_talking(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """Checks without end and findings without end are cut."""
    stand(pi5=agent(*[Check("n" * 3000, "warn", "f" * 3000, "x" * 3000)] * 900))
    assert check() == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 2 * MAX_CHECKS + 10
    assert max(map(len, out.splitlines())) < 2000


def test_a_diagnosis_without_checks_is_refused(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    """A board that says nothing is not taken for one that has no fault."""
    silent = agent()
    silent.checks = ()
    stand(pi5=silent)
    assert check() == 33
    assert "no checks" in capsys.readouterr().err


def test_copied_cards_are_named(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    """Boards that share a machine id or a host key are named, also one that does not answer."""
    root = stand(a=agent(machine_id="1" * 32), b=agent(machine_id="1" * 32), c=unreachable("c"))
    known = root / ".orchestrator/known_hosts"
    known.parent.mkdir()
    known.write_text("a ssh-ed25519 AAAA\nc ssh-ed25519 AAAA\n")
    assert check() == 30
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 2
    assert "a and b share the machine id" in warnings[0]
    assert "a and c share the host key" in warnings[1]


@pytest.mark.parametrize(
    ("serials", "words"),
    [
        (("77", "77"), "a and b are one board (serial number 77) under two names"),
        (("77", "78"), "a and b are two boards with cards copied from one: they share the machine"),
        (("77", None), "no serial number tells them apart"),
    ],
)
def test_serial_numbers_tell_boards_from_cards(
    stand: Stand,
    capsys: pytest.CaptureFixture[str],
    serials: tuple[str | None, str | None],
    words: str,
) -> None:
    """One serial number is one board under two names; two with one machine id are copied cards."""
    a, b = (agent(machine_id="1" * 32, serial=serial) for serial in serials)
    stand(a=a, b=b)
    assert check() == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert words in told
    assert check("--json") == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert words in warning


@pytest.mark.parametrize(
    ("board", "state", "words"),
    [
        (NOW, "ok", "within 5 s"),
        (datetime(2026, 3, 4, 12, 0, 4, tzinfo=UTC), "ok", "within 5 s"),
        (datetime(2026, 3, 4, 12, 1, 30, tzinfo=UTC), "warn", "90 seconds ahead of"),
        (datetime(2026, 3, 4, 10, 0, tzinfo=UTC), "warn", "2 hours behind"),
        (datetime(2026, 2, 1, tzinfo=UTC), "warn", "32 days behind"),
        (datetime(1970, 1, 1, 0, 3, tzinfo=UTC), "warn", "1970-01-01 00:03 UTC"),
    ],
)
def test_clock(board: datetime, state: str, words: str) -> None:
    """A wrong date is a warning with its size; results do not depend on it."""
    made = clock_check(round(board.timestamp()) * 1_000_000_000, NOW)
    assert made.state == state
    assert words in made.found
    assert ("results do not suffer" in made.fix) == (state == "warn")


@pytest.mark.parametrize("moment", [10**30, -(10**30), -1, 2**63])
def test_clock_that_is_none(moment: int) -> None:
    """A time that is no time is a warning and no exception."""
    assert clock_check(moment, NOW).state == "warn"


class Slow(FakeAgent):
    """Its diagnosis is complete after so many questions."""

    questions = 0
    needed = 3

    def _doctor(self) -> wire.Diagnosis:
        self.questions += 1
        made = super()._doctor()
        if self.questions > self.needed:
            return made
        return wire.Diagnosis(complete=False, board_utc_ns=0, machine_id=None, checks=())


def test_a_diagnosis_is_awaited() -> None:
    """The host asks again until the diagnosis is complete, with pauses, and gives up in the end."""
    clock = FakeClock()
    slow = Slow(clock)
    made = examine(FakeBoard("pi5", slow).connect(), "host", clock)
    assert isinstance(made, Findings)
    assert slow.questions == 4
    endless = Slow(clock)
    endless.needed = 10**9
    with pytest.raises(BoardFailure, match="pi5: its diagnosis did not end within 90 s"):
        examine(FakeBoard("pi5", endless).connect(), "host", clock)
    assert endless.questions < 1000


class Stuck(FakeBoard):
    """A board whose connection hangs until the test ends."""

    gate = threading.Event()

    def connect(self) -> Session:
        self.gate.wait(30)
        raise BoardUnreachable("too late", self.name)


def ask(boards: Sequence[Board], limit_s: float) -> list[census.Answer[wire.Hello]]:
    return census.ask(boards, lambda session: session.hello("host"), limit_s=limit_s)


def test_a_board_that_hangs_holds_up_no_other() -> None:
    """Boards that do not answer in time are given up, those that wait for their turn are asked."""
    Stuck.gate.clear()
    stuck = [Stuck(f"stuck{n}", agent()) for n in range(census.MAX_AT_ONCE)]
    answers = ask([*stuck, FakeBoard("good", agent())], 0.2)
    assert [answer.board for answer in answers][-1] == "good"
    assert answers[-1].value is not None
    for answer in answers[:-1]:
        assert isinstance(answer.error, BoardUnreachable)
        assert "no answer within 0.2 s" in str(answer.error)
    Stuck.gate.set()


def test_a_fault_of_ours_is_not_the_boards() -> None:
    """An error that is none of the tree is raised where the answers are awaited."""

    def fail(_method: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask([FakeBoard("pi5", FakeAgent(SystemClock(), sabotage=fail))], 5)
    assert ask([], 5) == []


def test_an_error_of_a_board_is_its_answer() -> None:
    """A board's error is its answer, and the others answer as well, in order."""

    def refuse(method: str) -> None:
        if method == "hello":
            raise LeaseHeld("ann measures", "bad")

    boards = [FakeBoard("bad", FakeAgent(SystemClock(), sabotage=refuse)), FakeBoard("b", agent())]
    first, second = ask(boards, 5)
    assert isinstance(first.error, LeaseHeld)
    assert second.value is not None


@pytest.mark.slow
def test_check_of_this_machine(tmp_path: Path) -> None:
    """A real agent on this machine examines it; the command says so as JSON and as a table."""
    with desk(tmp_path, "here", "twin") as place:
        result = place.run("boards", "check", "--json")
        made = table(result)
        assert [one["board"] for one in made["boards"]] == ["here", "twin"]
        found = {one["name"]: one for one in made["boards"][0]["checks"]}
        assert found["runtime"]["state"] == "ok"
        assert found["clock"]["state"] == "ok"
        assert made["warnings"] == []
        verdicts = {one["verdict"] for one in made["boards"]}
        assert result.returncode == (53 if "not fit" in verdicts else 0)
        shown = place.run("boards", "check", "here", "--verbose")
        assert f"onnxruntime {found['runtime']['found'].split()[1]}" in shown.stdout


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """An interpreter without any package."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    return str(tmp_path / "bare/bin/python")


def test_this_machine_without_packages(
    tmp_path: Path, bare: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interpreter that lacks the agent's packages ends the check with 32 and what to install."""
    (tmp_path / "inventory.yaml").write_text(
        f"boards:\n  here: {{local: true, home: {tmp_path}/home, python: {bare}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert check() == 32
    captured = capsys.readouterr()
    assert captured.err.startswith(f"Error: here: {bare} lacks what the agent needs")
    assert "install agent/requirements.lock" in captured.err
    assert "Traceback" not in captured.err
    assert any(line.startswith("here") for line in captured.out.splitlines())


@pytest.mark.ssh
@pytest.mark.slow
def test_a_board_without_packages(
    tmp_path: Path,
    bare: str,
    sshd: Sshd,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A board whose interpreter lacks packages ends the check with 32 and the name of each."""
    (tmp_path / "inventory.yaml").write_text(
        f"ssh_config: {sshd.ssh_config}\nboards:\n"
        f"  pi5: {{ssh_alias: loop, home: {tmp_path}/home, python: {bare}}}\n"
    )
    known = tmp_path / ".orchestrator/known_hosts"
    known.parent.mkdir()
    known.write_text(sshd.known_hosts_line("pi5"))
    monkeypatch.chdir(tmp_path)
    assert check("pi5") == 32
    said = capsys.readouterr().err
    assert said.startswith("Error: pi5: ")
    for package in ("msgspec", "numpy", "onnxruntime", "pillow", "psutil", "rpyc"):
        assert f"{package}: ModuleNotFoundError" in said
    assert "agent/requirements.lock" in said
    assert check("pi5", "--json") == 32
    (found,) = json.loads(capsys.readouterr().out)["boards"]
    assert "lacks what the agent needs" in json.dumps(found)
