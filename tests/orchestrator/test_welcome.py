"""What a board must bring, and what its probe says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from support.runs import fake_board

import agent
from agent import probe, wire
from orchestrator.boards.welcome import REQUIRED, probe_report, require_packages
from orchestrator.errors import PackagesMissing


def hello(packages: dict[str, str]) -> wire.Hello:
    request = wire.encode(wire.HelloRequest(protocol=wire.PROTOCOL, host="h"))
    answer = fake_board("pi").agent._hello(request)
    known = msgspec.structs.replace(answer.fingerprint, packages=packages, python="3.11.2")
    return msgspec.structs.replace(answer, fingerprint=known)


def test_all_there() -> None:
    """A board with every package is welcome, whatever else it has and however names are written."""
    complete = hello({name.upper(): "1" for name in REQUIRED} | {"torch": "2"})
    assert require_packages(complete, "pi") is complete


def test_what_is_missing() -> None:
    """Every package that a board lacks is named, with its Python and what to do."""
    with pytest.raises(PackagesMissing) as caught:
        require_packages(hello({"numpy": "2", "rpyc": "6", "psutil": "6", "msgspec": "0"}), "pi")
    text = str(caught.value)
    assert "pi: Python 3.11.2 on the board lacks onnxruntime, pillow;" in text
    assert "requirements.lock" in text


def test_the_list_is_that_of_the_lock() -> None:
    """The host asks for the packages that the agent's probe tries and its lock file pins."""
    lock = (Path(agent.__file__).parent / "requirements.lock").read_text()
    pinned = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE)}
    assert set(REQUIRED) == set(probe.PACKAGES)
    assert set(REQUIRED) <= pinned


@pytest.mark.parametrize("before", ["", "Welcome\n", "{oops\n", "no line feed", "\n\n"])
def test_a_report_behind_a_banner(before: str) -> None:
    """A report is found behind whatever a login script printed."""
    found = {"python": "3", "missing": {"python": "it is 3.9"}}
    assert probe_report(f"{before}{json.dumps(found)}\n") == found


@pytest.mark.parametrize("text", ["", "no", "{", "[]", '"{}"', "{}{}", '{"a":' * 5000, "7"])
def test_no_report(text: str) -> None:
    """What is no report is None, not an error."""
    assert probe_report(text) is None
