"""What the tests of faults share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psutil
import pytest
from support.pair import HIT, Pair, make_pair
from support.virtual import RealLab


@pytest.fixture(scope="session")
def ready_pair(virtual_lab: RealLab) -> Pair:
    """Both boards, up; whatever was done to them before, they have an agent that ran before."""
    return make_pair(virtual_lab)


@pytest.fixture
def pair(ready_pair: Pair) -> Iterator[Pair]:
    """Both boards; no ssh of a run outlives it, nor does a thread."""
    ready_pair.lab.as_root(HIT, "kill $(jobs -p) 2>/dev/null; true")  # a failed test's fault
    before = set(threading.enumerate())
    yield ready_pair
    children = [child.cmdline()[:1] for child in psutil.Process().children(recursive=True)]
    assert ["ssh"] not in children
    assert {one for one in threading.enumerate() if one not in before and not one.daemon} == set()
