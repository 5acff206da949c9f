"""Trials for the worker: a directory, artifacts, small models, and ways to run it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from agent import worker
from agent.wire import (
    ArtifactRef,
    DetectHead,
    ImagePrep,
    ImageRef,
    Inputs,
    RuntimeOptions,
    Scenario,
    TrialSpec,
    decode_samples,
    encode,
)
from agent.worker_events import Failed, PhaseStarted, decode_event

REPOSITORY = Path(__file__).resolve().parents[2]
PREP = ImagePrep(16, 16)
HEAD = DetectHead("yolo_v8", 2, score_threshold=0.1)
SECOND_NS = 10**9


def scenario(**changes):
    fields = {
        "warmup_min_samples": 2,
        "warmup_min_duration_ns": 0,
        "min_samples": 5,
        "min_duration_ns": 0,
        "max_duration_ns": 60 * SECOND_NS,
    }
    return Scenario(**(fields | changes))


class Rig:
    """A trial's directory and the artifacts it needs."""

    def __init__(self, root):
        self.trial = root / "trial"
        self.artifacts = root / "artifacts"
        self.trial.mkdir()
        self.artifacts.mkdir()

    def add(self, data, model_format="onnx"):
        digest = hashlib.sha256(data).hexdigest()
        (self.artifacts / digest).write_bytes(data)
        return ArtifactRef(digest, len(data), model_format)

    def image(self, name, size=(20, 10), seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path = self.artifacts / "new.png"
        Image.fromarray(pixels).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(self.artifacts / digest)
        return ImageRef(digest, name)

    def write(self, artifact, **changes):
        fields = {
            "trial_id": "t1",
            "run_id": "r1",
            "artifact": artifact,
            "options": RuntimeOptions(intra_op_num_threads=1),
            "scenario": scenario(),
            "inputs": Inputs(),
            "deadline_ns": 60 * SECOND_NS,
        }
        spec = TrialSpec(**(fields | changes))
        (self.trial / "spec.json").write_text(encode(spec))
        return spec

    def command(self, before=""):
        """The worker's command line; `before` is Python that runs in the process before it."""
        worker = [
            *(sys.executable, "-m", "agent", "worker"),
            *("--trial-dir", str(self.trial), "--artifacts", str(self.artifacts)),
        ]
        launcher = (
            f"import os, resource, signal, sys\n{before}\nos.execv(sys.argv[1], sys.argv[1:])"
        )
        return [sys.executable, "-c", launcher, *worker] if before else worker

    def start(self, before=""):
        return subprocess.Popen(
            self.command(before),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def here(self):
        """Measure in this process, which is quicker; the events."""
        events = []
        try:
            worker.run(self.trial, self.artifacts, events.append)
        except Exception as exc:  # noqa: BLE001 - as the worker's own main does
            events.append(Failed(worker.failure_of(exc)))
        return events

    def failure_here(self):
        """Measure in this process to the failure."""
        last = self.here()[-1]
        assert isinstance(last, Failed)
        return last.failure

    def measure(self, before=""):
        """Run a worker process to its end; its events."""
        done = subprocess.run(
            self.command(before),
            cwd=REPOSITORY,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [decode_event(line) for line in done.stdout.splitlines()]

    def failure(self, before=""):
        """Run a worker process to its failure."""
        last = self.measure(before)[-1]
        assert isinstance(last, Failed)
        return last.failure

    def samples(self):
        return decode_samples((self.trial / "samples.bin").read_bytes())


def model_of(nodes, inputs, outputs, initializers=()):
    def values(pairs):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in pairs]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def detector():
    """A model of images (1, 3, 16, 16) that always sees one box; its score is the mean pixel."""
    box = np.array([8, 8, 4, 4], np.float32).reshape(1, 4, 1)
    zero = np.zeros((1, 1, 1), np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["score"]),
        helper.make_node("Concat", ["box", "score", "zero"], ["out"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(box, "box"),
        numpy_helper.from_array(zero, "zero"),
        numpy_helper.from_array(np.array([1, 1, 1], np.int64), "shape"),
    ]
    return model_of(nodes, [("images", [1, 3, 16, 16])], [("out", [1, 6, 1])], constants)


def phases(events):
    return [event.phase for event in events if isinstance(event, PhaseStarted)]


def only(events, kind):
    (found,) = [event for event in events if isinstance(event, kind)]
    return found
