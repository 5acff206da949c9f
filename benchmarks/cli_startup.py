"""Start-up time: `orchestrator --help` against a Python that imports rich and click only.

Run it on a quiet machine: `python benchmarks/cli_startup.py [ROUNDS]`. The two commands
alternate; the figure is the ratio of their median wall times, and the goal is under 1.5.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

GOAL_RATIO = 1.5


def wall_s(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    script = shutil.which("orchestrator", path=str(Path(sys.executable).parent))
    ours = [script] if script else [sys.executable, "-m", "orchestrator"]
    ours.append("--help")
    bare = [sys.executable, "-c", "import rich, click"]
    for command in (ours, bare):
        wall_s(command)  # fills the page cache and writes byte code
    pairs = [(wall_s(ours), wall_s(bare)) for _ in range(rounds)]
    ours_s, bare_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = ours_s / bare_s
    print(f"{' '.join(ours)}: median {ours_s * 1e3:.1f} ms of {rounds}")
    print(f"{' '.join(bare)}: median {bare_s * 1e3:.1f} ms of {rounds}")
    print(f"ratio {ratio:.2f} (goal: under {GOAL_RATIO})")
    return 0 if ratio < GOAL_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
