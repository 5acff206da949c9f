"""The host's own process, ended in the middle of a run over two virtual boards."""

from __future__ import annotations

import signal
import time

import pytest
from support.aftermath import ends, require_complete, samples_kept
from support.pair import BOUND_S, HIT, OTHER, Pair, await_no_ssh

from orchestrator.conduct import STOP_PATIENCE_S
from orchestrator.errors import Interrupted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.long,
    pytest.mark.timeout(900),  # the first test builds the image and boots both boards
]


def test_interrupt_then_a_killed_host(pair: Pair) -> None:
    """Ctrl-C stores what both boards measured and frees them; SIGKILL costs no trial at all.

    After SIGKILL both boards end their trials without the host, and `resume` fetches these.
    """
    name = pair.write(blocks=2, seconds=8)
    with pair.command("run", name, "--boards", f"{HIT},{OTHER}") as process:
        began_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND_S)
        took_s = time.monotonic() - began_s
    assert process.returncode == Interrupted.exit_code, err
    assert "Traceback" not in err
    assert took_s < 2 * STOP_PATIENCE_S
    pair.require_clean()
    for board in (HIT, OTHER):
        assert ends(pair.rows, board) == [[("cancelled", 1)]]
        assert samples_kept(pair.rows, board, ["cancelled"]) > 0

    with pair.command("resume") as process:
        process.kill()
    await_no_ssh(pair.root)

    run = pair.resume()
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    for board in (HIT, OTHER):
        assert ends(run.rows, board) == [[("cancelled", 1), ("finished", 2)], [("finished", 1)]]
    require_complete(run.rows, {HIT: 2, OTHER: 2})
    pair.require_clean()
