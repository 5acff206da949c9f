"""`orchestrator run` as it is typed: what is refused, with which exit code, and what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.jobs import voc
from support.onnxmodels import tiny_model

from orchestrator import invocation
from orchestrator.cli import main
from orchestrator.commands.run import MAX_SEED
from orchestrator.errors import BoardUnreachable
from orchestrator.invocation import Asked
from orchestrator.runner import Report

INVENTORY = """
default_experiment: mine.yaml
boards:
  here: {local: true, labels: [desk]}
  pi5: {address: 10.0.0.5, user: pi, labels: [lab, desk]}
  pi3b: {address: 10.0.0.3, arch: aarch64, threads: 3, labels: [lab]}
"""
EXPERIMENT = """
models: [tiny.onnx]
recipes: [fp32]
blocks: 2
profile: smoke
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    tiny_model(tmp_path / "tiny.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Asked, dict[str, Any]]]:
    """What would have been measured; nothing is contacted in these tests."""
    found: list[tuple[Asked, dict[str, Any]]] = []

    def measure(asked: Asked, **how: Any) -> Report:
        found.append((asked, how))
        return Report(asked.request.run_id, "finished", 0, ())

    monkeypatch.setattr(invocation, "measure", measure)
    return found


Measured = list[tuple[Asked, dict[str, Any]]]


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("", 2, "Missing option '--boards'"),
        ("--boards her", 12, "did you mean 'here'"),
        ("--boards here,pi4", 12, "did you mean 'pi5'"),
        ("--boards label:lbb", 12, "did you mean 'lab'"),
        ("--boards ,", 12, "no boards are named"),
        ("dmo --boards here", 12, "did you mean 'demo'"),
        ("other.yaml --boards here", 11, "other.yaml"),
        ("--boards here --profile fast", 12, "no profile 'fast'"),
        ("demo --model tiny.onnx --boards here", 2, "exclude each other"),
        ("demo --recipes fp33 --boards here", 12, "did you mean 'fp32'"),
        ("--data voc --boards here", 11, "mine names its own data"),
        ("--shape x=1,2 --boards here", 2, "--shape goes with --model"),
        ("--imgsz 64 --boards here", 2, "--imgsz goes with --model"),
        ("--model tiny.onnx --shape x --boards here", 2, "expected NAME=1,3,224,224"),
        ("--model tiny.onnx --shape x=0 --boards here", 2, "expected NAME=1,3,224,224"),
        ("--model tiny.onnx --shape x=-1,3 --boards here", 2, "expected NAME=1,3,224,224"),
        ("--model tiny.onnx --shape x=1,² --boards here", 2, "expected NAME=1,3,224,224"),
        ("--model tiny.onnx --shape =1,2 --boards here", 2, "expected NAME=1,3,224,224"),
        ("--model tiny.onnx --recipes fp32,fp32 --boards here", 11, "stands twice"),
        ("--boards here --threads 0", 2, "--threads"),
        ("--boards here --seed -1", 2, "--seed"),
        (f"--boards here --seed {MAX_SEED + 1}", 2, "--seed"),
        ("--boards here --inventory none.yaml", 10, "none.yaml is no file"),
        ("--boards here surplus.yaml more", 2, "unexpected extra argument"),
    ],
)
def test_refused(
    words: str, code: int, said: str, workspace: Path, measured: Measured,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What is typed wrong is refused with its own exit code and words, and nothing is measured."""
    assert main(["run", *words.split()]) == code
    shown = capsys.readouterr()
    assert said in shown.err.replace("\n", " ")
    assert "Traceback" not in shown.err
    assert (shown.out, measured) == ("", [])
    assert not (workspace / "results.sqlite").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("boards:\n  pi5:\n    adress: 10.0.0.1\n", "address"),
        ("boards:\n  pi5: {address: 'a b'}\n", "expected a host name"),
        ("boards: []\n", "boards"),
        ("boards:\n\tpi5: {}\n", "inventory.yaml:2"),
        ("", "inventory.yaml"),
    ],
)
def test_malformed_inventory(
    text: str, said: str, workspace: Path, measured: Measured,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A malformed inventory is refused with its file and what was expected."""
    (workspace / "inventory.yaml").write_text(text)
    assert main(["run", "--boards", "pi5"]) == 10
    shown = capsys.readouterr().err
    assert "inventory.yaml" in shown
    assert said in shown
    assert measured == []


def test_no_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an inventory anywhere above, the message has the command that makes one."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--boards", "local"]) == 10
    assert "printf 'boards:" in capsys.readouterr().err


# ---------------------------------------------------------------- what is asked for


def asked(words: str, measured: Measured) -> Asked:
    assert main(["run", *words.split()]) == 0
    return measured[-1][0]


def test_defaults(workspace: Path, measured: Measured) -> None:
    """Without an experiment it is the inventory's own, and everything lies beside the inventory."""
    found = asked("--boards here", measured)
    assert found.experiment.name == "mine"
    assert found.location == workspace / "results.sqlite"
    assert [entry.name for entry in found.entries] == ["here"]
    assert measured[-1][1] == {"as_json": False, "plain": False}


def test_without_a_default(workspace: Path, measured: Measured) -> None:
    """Without one in the inventory either, it is the shipped demo."""
    (workspace / "inventory.yaml").write_text("boards:\n  here: {local: true}\n")
    assert asked("--boards here", measured).experiment.name == "demo"


def test_from_a_folder_below(
    workspace: Path, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the inventory's folder everything is found; paths that are typed are from here."""
    below = workspace / "below"
    below.mkdir()
    (below / "mine.yaml").write_text(EXPERIMENT.replace("blocks: 2", "blocks: 5"))
    monkeypatch.chdir(below)
    assert asked("--boards here", measured).experiment.profile.blocks == 2
    assert asked("mine.yaml --boards here", measured).experiment.profile.blocks == 5


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("pi3b,here", ["pi3b", "here"]),
        ("all", ["here", "pi5", "pi3b"]),
        ("label:lab", ["pi5", "pi3b"]),
        ("pi5,label:desk,pi5", ["pi5", "here"]),
    ],
)
def test_boards(selection: str, names: list[str], workspace: Path, measured: Measured) -> None:
    """Boards are named one by one, by label, or all; each is taken once."""
    found = asked(f"--boards {selection}", measured)
    assert [entry.name for entry in found.entries] == names
    assert found.request.boards == selection


def test_adhoc(workspace: Path, measured: Measured) -> None:
    """`--model` makes an experiment of one model with the recipes, data and shapes given."""
    voc(workspace / "voc", ("circle",), {"val": 1})
    (workspace / "images").mkdir()
    line = (
        "--boards here --model tiny.onnx --recipes fp32,ort_format --data voc "
        "--calibration images --shape x=1,3,8,8 --profile quick --threads 2 --seed 5"
    )
    found = asked(line, measured)
    (model,) = found.experiment.models
    assert (model.reference, model.shapes) == ("tiny.onnx", {"x": (1, 3, 8, 8)})
    assert found.experiment.recipes == ("fp32", "ort_format")
    assert found.experiment.data is not None
    assert found.experiment.data.source == str(workspace / "voc")
    assert found.experiment.calibration is not None
    assert found.experiment.calibration.source == str(workspace / "images")
    assert found.experiment.profile.name == "quick"
    assert (found.request.threads, found.request.seed) == (2, 5)


def test_lists_with_blanks(workspace: Path, measured: Measured) -> None:
    """Blanks around the commas of a list mean nothing."""
    assert (
        main(
            ["run", "--boards", "here", "--model", "tiny.onnx", "--recipes", " fp32 , ort_format,"]
        )
        == 0
    )
    assert measured[-1][0].experiment.recipes == ("fp32", "ort_format")


def test_one_recipe_by_default(workspace: Path, measured: Measured) -> None:
    """A model without recipes is measured as it is."""
    assert asked("--boards here --model tiny.onnx", measured).experiment.recipes == ("fp32",)


def test_profile_replaces_the_experiments(workspace: Path, measured: Measured) -> None:
    """`--profile` replaces the experiment's own times, blocks and image count."""
    profile = asked("--boards here --profile normal", measured).experiment.profile
    assert (profile.name, profile.blocks) == ("normal", 5)


def test_seeds(workspace: Path, measured: Measured) -> None:
    """Without `--seed` each run draws its own; every seed that a database holds may be given."""
    drawn = {asked("--boards here", measured).request.seed for _ in range(4)}
    assert len(drawn) == 4
    assert all(0 <= seed <= MAX_SEED for seed in drawn)
    assert asked(f"--boards here --seed {MAX_SEED}", measured).request.seed == MAX_SEED
    assert asked("--boards here --seed 0", measured).request.seed == 0


def test_run_ids_differ(workspace: Path, measured: Measured) -> None:
    """Two runs never have the same id."""
    ids = {asked("--boards here", measured).request.run_id for _ in range(4)}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("db", "expected"), [("other.sqlite", "other.sqlite"), ("sub/x.db", "sub/x.db")]
)
def test_database(db: str, expected: str, workspace: Path, measured: Measured) -> None:
    """`--db` names another database."""
    assert asked(f"--boards here --db {db}", measured).location == Path(expected)


def test_database_url(workspace: Path, measured: Measured) -> None:
    """`--db` takes a URL as well."""
    url = "postgresql+psycopg://host/db"
    assert asked(f"--boards here --db {url}", measured).location == url


def test_screens(workspace: Path, measured: Measured) -> None:
    """`--json` and `--plain` are passed on."""
    asked("--boards here --json --plain", measured)
    assert measured[-1][1] == {"as_json": True, "plain": True}


def test_exit_code_of_an_incomplete_run(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that a board's failure left incomplete ends with that failure's code and words."""

    def measure(found: Asked, **how: Any) -> Report:
        return Report("r1", "partial", 3, (BoardUnreachable("no answer", "pi5"),))

    monkeypatch.setattr(invocation, "measure", measure)
    assert main(["run", "--boards", "all"]) == 30
    shown = capsys.readouterr().err
    assert "run r1 is incomplete" in shown
    assert "pi5: no answer" in shown


# ---------------------------------------------------------------- the dry run


def test_dry_run(workspace: Path, measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run shows trials, builds, boards and time, and neither measures nor stores."""
    before = sorted(workspace.rglob("*"))
    assert main(["run", "--boards", "all", "--dry-run", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    for board in ("here", "pi5", "pi3b"):
        assert out.count(f"{board} ") >= 2 + 1  # two blocks, and its line
    assert "to be built" in out
    assert "this machine" in out
    assert "arch: in inventory" in out
    assert "never seen: assumed" in out
    assert "--seed 3" in out
    assert measured == []
    assert sorted(workspace.rglob("*")) == before


def test_dry_run_refuses_as_a_run_does(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a run would refuse, its dry run refuses in the same way."""
    assert main(["run", "--boards", "here", "--model", "none.onnx", "--dry-run"]) == 21
    assert "none.onnx" in capsys.readouterr().err
