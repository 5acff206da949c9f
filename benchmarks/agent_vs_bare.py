"""The median that the agent's worker reports, over that of a bare loop around `session.run`.

    python benchmarks/agent_vs_bare.py [MODEL.onnx] [--rounds N] [--threads N] [--seconds S]

Each round starts two fresh processes in alternating order: a worker as the agent starts it, and
a bare loop with the same model, session options, input and number of warm-ups. The figure is the
median over the rounds of worker median / bare median; the goal is within 1 % of 1. Run it on a
quiet machine: the spread of the rounds, which is printed too, says how quiet it was.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from agent.wire import (
    ArtifactRef,
    Inputs,
    RuntimeOptions,
    Scenario,
    TrialSpec,
    decode_samples,
    encode,
)

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_MODEL = REPOSITORY / "models" / "weights" / "tinydet.onnx"
GOAL = 0.01
WARMUPS = 10


def bare_median_ns(model: Path, threads: int, seconds: float) -> float:
    """Median of a plain loop over a session with the worker's options; nothing of the agent."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.inter_op.allow_spinning", "1")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feed = {x.name: random.random(x.shape, dtype=np.float32) for x in session.get_inputs()}
    for _ in range(WARMUPS):
        session.run(None, feed)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        session.run(None, feed)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times)


def worker_median_ns(model: Path, options: RuntimeOptions, seconds: float) -> float:
    """Median that one worker process reports for one trial."""
    data = model.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    with tempfile.TemporaryDirectory() as root:
        trial, artifacts = Path(root, "trial"), Path(root, "artifacts")
        trial.mkdir()
        artifacts.mkdir()
        shutil.copyfile(model, artifacts / digest)
        spec = TrialSpec(
            trial_id="benchmark",
            run_id="benchmark",
            artifact=ArtifactRef(digest, len(data), "onnx"),
            options=options,
            scenario=Scenario(WARMUPS - 1, 0, 1, round(seconds * 1e9), round(seconds * 2e9)),
            inputs=Inputs(),
            deadline_ns=round(seconds * 10e9),
        )
        (trial / "spec.json").write_text(encode(spec))
        command = [sys.executable, "-m", "agent", "worker"]
        command += ["--trial-dir", str(trial), "--artifacts", str(artifacts)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
        samples = decode_samples((trial / "samples.bin").read_bytes())
    return statistics.median(samples.latency_ns[sum(samples.counts[:2]) :])


def bare_process_median_ns(args: argparse.Namespace) -> float:
    """The bare loop in a fresh process of its own."""
    command = [sys.executable, __file__, str(args.model), "--bare"]
    command += ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    done = subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    return float(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    options = RuntimeOptions(intra_op_num_threads=args.threads)
    if args.bare:
        print(json.dumps(bare_median_ns(args.model, args.threads, args.seconds)))
        return 0
    ratios, medians = [], []
    for _, first in zip(range(args.rounds), itertools.cycle(("bare", "worker"))):
        if first == "bare":
            bare = bare_process_median_ns(args)
            worker = worker_median_ns(args.model, options, args.seconds)
        else:
            worker = worker_median_ns(args.model, options, args.seconds)
            bare = bare_process_median_ns(args)
        ratios.append(worker / bare)
        medians.append((worker, bare))
    worker, bare = (statistics.median(column) / 1e6 for column in zip(*medians, strict=True))
    best = min(pair[0] for pair in medians) / min(pair[1] for pair in medians)
    low, ratio, high = np.percentile(ratios, [25, 50, 75])
    print(f"{args.model.name}, {args.threads} threads, {args.rounds} rounds of {args.seconds} s")
    print(f"median of medians: worker {worker:.4f} ms, bare loop {bare:.4f} ms")
    print(f"ratio {ratio:.4f} (quartiles {low:.4f}..{high:.4f}; goal: within {GOAL:.0%} of 1)")
    print(f"fastest worker over fastest bare loop: {best:.4f}")
    return 0 if abs(ratio - 1) <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
