"""The disk of one of two virtual boards, in the middle of a run."""

from __future__ import annotations

import pytest
from support.aftermath import ends, samples_kept
from support.pair import BOUND_S, HIT, Pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.timeout(900),  # the first test builds the image and boots both boards
]
HOME = "/home/pi"
FLIP = (
    "import pathlib; "
    f"files = pathlib.Path('{HOME}/.orchestrator/artifacts').iterdir(); "
    "small = [file for file in files if file.stat().st_size < 65536]; "
    "[file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])) "
    "for file in small]"
)
"""Flips one bit of every small file in the store: the tiny model is the only one."""


def test_bit_flips_in_a_stored_artifact(pair: Pair) -> None:
    """A model that decayed on a board is found before it runs, pushed again, and measured."""
    pair.when_sampling(f'python3 -c "{FLIP}"')
    run = pair.begin()
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    assert ends(run.rows, HIT) == [[("finished", 1)], [("failed", 1), ("finished", 2)]]
    failures = run.rows("SELECT failure_kind FROM trials WHERE state = 'failed'")
    assert [row["failure_kind"] for row in failures] == ["digest_mismatch"]
    assert samples_kept(run.rows, HIT, ["failed"]) == 0
    pair.require_aftermath(run)
