"""The agent's command line: `serve`, `dial`, `probe` and `worker`.

    python -I BUNDLE dial --home HOME     what the host runs, on a board through ssh
    python -I BUNDLE serve --home HOME    the daemon, which `dial` starts by itself
    python -I BUNDLE probe                can this Python run the agent?
    python -I BUNDLE worker ...           one trial, started by the daemon

Imports are inside the commands: `probe` must run where packages are missing, `dial` must be quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

DEFAULT_IDLE_S = 600.0


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    # onnxruntime would leave a device id and a database in ~/.cache at its first import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    options = _parser().parse_args(argv)
    commands = {"serve": _serve, "dial": _dial, "probe": _probe, "worker": _worker}
    sys.exit(commands[options.command](options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent", description="The board side.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("serve", "answer the host on a Unix socket until idle"),
        ("dial", "start the agent if needed and join stdin and stdout to it"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--home", type=Path, required=True, help="the agent's directory")
        command.add_argument(
            "--idle-s",
            type=float,
            default=DEFAULT_IDLE_S,
            help="stop after so long without connection, lease and trial (default %(default).0f)",
        )
        command.add_argument("--lock", type=Path, help="the board's lock file")
        command.add_argument(
            "--sysfs", type=Path, default=Path("/"), help="root below which sys/ and proc/ are read"
        )
    commands.add_parser("probe", help="say which packages this Python lacks")
    worker = commands.add_parser("worker", help="measure one trial")
    worker.add_argument("--trial-dir", type=Path, required=True)
    worker.add_argument("--artifacts", type=Path, required=True)
    worker.add_argument("--parent", type=int, help="end when this process is gone")
    return parser


def _dial(options: argparse.Namespace) -> int:
    from agent.dial import run  # noqa: PLC0415 - see above

    return run(options.home, _serve_command(options))


def _serve_command(options: argparse.Namespace) -> list[str]:
    from agent.home import own_command  # noqa: PLC0415 - see above

    command = [*own_command(), "serve", "--home", str(options.home.absolute())]
    command += ["--idle-s", str(options.idle_s), "--sysfs", str(options.sysfs.absolute())]
    return command + (["--lock", str(options.lock.absolute())] if options.lock else [])


def _serve(options: argparse.Namespace) -> int:
    from agent.serve import run  # noqa: PLC0415 - see above

    return run(options.home, idle_s=options.idle_s, lock=options.lock, sysroot=options.sysfs)


def _probe(_options: argparse.Namespace) -> int:
    from agent.probe import main as probe  # noqa: PLC0415 - see above

    return probe()


def _worker(options: argparse.Namespace) -> int:
    from agent.attach import attach  # noqa: PLC0415 - see above
    from agent.worker import main as work  # noqa: PLC0415 - see above

    attach(options.parent)
    return work(options.trial_dir, options.artifacts)


if __name__ == "__main__":
    main()
