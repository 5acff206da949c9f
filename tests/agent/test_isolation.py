import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.agentkit import AgentProcess, Dialled, agent_digest, trial_spec
from support.onnxmodels import tiny_model

import agent
from agent import wire
from agent.home import open_home
from agent.wire.bundle import ENTRY_NAME, ENTRY_TEXT, bundle_digest, bundle_files

PACKAGE = Path(agent.__file__).parent
ALLOWED = {
    "agent", "rpyc", "plumbum", "numpy", "onnxruntime", "msgspec", "psutil", "PIL",
    "flatbuffers", "google", "packaging", "typing_extensions",
}  # fmt: skip
"""The agent, its packages, and what those import themselves."""

IMPORT_ALL = """
import json, pkgutil, sys
before = set(sys.modules)
import agent
for module in pkgutil.walk_packages(agent.__path__, "agent."):
    __import__(module.name)
import onnxruntime, PIL.Image
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""

IMPORT_ONE = """
import json, sys
__import__(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def imported(code, *args):
    path = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", path + code, *args], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_of_every_module():
    """No module of the agent brings in a package that a board has not been told to install."""
    assert imported(IMPORT_ALL) <= ALLOWED


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("agent.__main__", ALLOWED - {"agent"}),
        ("agent.probe", ALLOWED - {"agent"}),
        ("agent.wire", ALLOWED - {"agent", "msgspec", "typing_extensions"}),
        ("agent.dial", ALLOWED - {"agent", "msgspec", "typing_extensions"}),
        ("agent.serve", {"numpy", "onnxruntime", "PIL"}),
    ],
)
def test_light_starts(module, absent):
    """What a slow board starts often, or starts where packages are missing, loads little."""
    assert not imported(IMPORT_ONE, module) & absent


def locked():
    lines = (PACKAGE / "requirements.lock").read_text().splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def test_lock_is_exact():
    """Every line of the board's list pins one version of one package, each package once."""
    found = [re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9.]*)", line) for line in locked()]
    assert all(found), locked()
    names = [match[1] for match in found if match]
    assert sorted(set(names)) == names
    assert set(names) >= {"msgspec", "numpy", "onnxruntime", "pillow", "psutil", "rpyc"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python that has the locked packages and nothing else, and the agent's bundle."""
    folder = tmp_path_factory.mktemp("bare")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    reach = subprocess.run(
        [python, "-m", "pip", "download", "--no-deps", "-q", "-d", folder, locked()[-1]],
        capture_output=True, check=False, timeout=200,
    )  # fmt: skip
    if reach.returncode:
        pytest.skip("pip cannot reach a package index from here")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:",
         "-r", PACKAGE / "requirements.lock"],
        check=True, timeout=500,
    )  # fmt: skip
    subprocess.run([python, "-m", "pip", "check"], check=True, timeout=60)
    for name, data in (bundle_files(PACKAGE) | {ENTRY_NAME: ENTRY_TEXT.encode()}).items():
        path = folder / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder, [str(python), "-I", str(folder / "bundle")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bare_environment(bare, tmp_path):
    """With the locked packages alone the bundle starts, answers, and measures a real model."""
    folder, command = bare
    probed = subprocess.run([*command, "probe"], capture_output=True, text=True, check=True)
    assert json.loads(probed.stdout)["missing"] == {}

    model = tiny_model(tmp_path / "tiny.onnx").read_bytes()
    sha256 = hashlib.sha256(model).hexdigest()
    home = folder / "home"
    dialled = Dialled(
        [*command, "dial", "--home", str(home), "--lock", str(folder / "lock"), "--idle-s", "20"]
    )
    try:
        talk = dialled.greeted()
        hello = talk.hello()
        assert hello.agent_digest == agent_digest()
        pins = dict(line.split("==") for line in locked())
        assert hello.fingerprint.packages.items() <= pins.items()
        talk.ok(wire.Put, "put_chunk", sha256, 0, len(model), model)
        talk.ok(wire.LeaseInfo, "lease", wire.encode(wire.LeaseRequest("ann", "run-1", 60.0)))
        spec = trial_spec(sha256=sha256, size_bytes=len(model))
        talk.ok(bool, "start", wire.encode(spec))
        deadline = time.monotonic() + 60
        while talk.ok(wire.Poll, "poll", spec.trial_id, 0).phase != "ended":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        outcome = talk.ok(wire.Outcome, "outcome", spec.trial_id)
        assert (outcome.state, outcome.failure) == ("finished", None)
        samples = wire.decode_samples(talk.raw("read", spec.trial_id, "samples", 0, 1 << 20))
        assert samples.counts[2] >= spec.scenario.min_samples
    finally:
        dialled.end()
        AgentProcess(open_home(home, agent_digest()), ()).kill()


def test_digest_does_not_depend_on_leftovers(tmp_path):
    """Compiled files and other things beside the sources do not make another agent of it."""
    for name, data in bundle_files(PACKAGE).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "agent" / "__pycache__").mkdir()
    (tmp_path / "agent" / "__pycache__" / "x.pyc").write_bytes(os.urandom(9))
    (tmp_path / "agent" / "notes.txt").write_text("x")
    assert bundle_digest(tmp_path / "agent") == agent_digest()
    (tmp_path / "agent" / "extra.py").write_text("")
    assert bundle_digest(tmp_path / "agent") != agent_digest()
