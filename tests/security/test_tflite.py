"""A TensorFlow Lite file with flipped bits: it ends its own worker at most."""

import importlib.util
import subprocess

import numpy as np
import pytest
from support import convnet
from support.workerrig import REPOSITORY, Rig, scenario

from agent.worker_events import Ended, Failed, decode_event

pytestmark = [
    pytest.mark.litert,
    pytest.mark.skipif(
        importlib.util.find_spec("ai_edge_litert") is None,
        reason="ai_edge_litert is not installed (the extra 'litert')",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_ends_its_own_worker_at_most(tmp_path, seed):
    """Whatever bits are flipped, the worker reports an end or a failure, or is ended by a signal.

    A signal is what the supervisor reports as `worker_killed`; it is another process.
    """
    random = np.random.default_rng(seed)
    data = bytearray(convnet.TFLITE.read_bytes())
    for place in random.integers(8, len(data), 12):
        data[place] ^= 1 << int(random.integers(0, 8))
    rig = Rig(tmp_path)
    rig.write(rig.add(bytes(data), "tflite"), runtime="litert", scenario=scenario())
    done = subprocess.run(
        rig.command(), cwd=REPOSITORY, capture_output=True, timeout=120, check=False
    )
    assert done.returncode <= 0, done.stderr
    if done.returncode == 0:
        last = decode_event(done.stdout.splitlines()[-1])
        assert isinstance(last, Ended | Failed)
