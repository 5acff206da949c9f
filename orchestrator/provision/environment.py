"""One version of the agent's packages on a board: looked for, pushed, unpacked, switched to.

HOME/env/<id>/             a virtual environment around the board's own Python
HOME/env/current           link to the one in use, replaced in one step
HOME/env/.<sha12>.part     an archive on its way
HOME/env/.new-<id>/        an environment being unpacked
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from orchestrator.boards.shell import CommandResult, Shell, run_script
from orchestrator.boards.sshcommand import remote_path
from orchestrator.errors import BoardDiskFull, TransferFailed
from orchestrator.provision.survey import Interpreter
from orchestrator.provision.target import Target
from orchestrator.provision.tree import Tree

CHUNK_BYTES: Final = 1 << 18
UNPACK_TIMEOUT_S: Final = 600.0
"""Some 1,700 files, 140 MB, onto a slow card."""

SLOWEST_CARD_BYTES_PER_S: Final = 500_000
"""With torch there are 12,000 files and 600 MB more."""

BYTECODE_SHARE: Final = 0.2
"""What Python adds to a tree when it compiles what it imports; measured: 8 MB of 137 MB."""

SPARE_BYTES: Final = 64 << 20
"""What must be left for journals and artifacts."""

_DAMAGED: Final = 65

_LOOK = """
cd "$1" 2>/dev/null || exit 0
[ -x "env/$2/bin/python3" ] && echo "present=yes"
echo "current=$(readlink env/current)"
[ -f "env/$3" ] && echo "partial=$(wc -c < "env/$3")"
[ -f "bundles/$4/__main__.py" ] && echo "bundle=yes"
for name in env/* env/.new-* env/.*.part bundles/*; do
  [ -e "$name" ] || [ -L "$name" ] || continue
  case "$name" in env/current|"env/$2"|"env/$3"|"bundles/$4") ;; *) echo "other=$name";; esac
done
"""

_UNPACK = f"""
umask 077
cd "$1/env" || exit 1
id=$2 part=$3 new=.new-$2
if [ "$(sha256sum < "$part" | cut -d ' ' -f 1)" != "$4" ]; then rm -f "$part"; exit {_DAMAGED}; fi
rm -rf "$new"
mkdir -p "$new/bin" "$new/$5" &&
  tar -xzmf "$part" --no-same-owner -C "$new/$5" &&
  ln -s "$6" "$new/bin/python3" &&
  ln -s python3 "$new/bin/python" &&
  printf 'home = %s\\ninclude-system-site-packages = false\\nversion = %s\\n' "$7" "$8" \\
    > "$new/pyvenv.cfg" &&
  sync -f "$new" &&
  rm -rf "$id" && mv -T "$new" "$id"
code=$?
rm -rf "$new"
[ $code -ne 0 ] || rm -f "$part"
exit $code
"""

_SWITCH = """
cd "$1/env" && rm -f .current.new && ln -s "$2" .current.new && mv -T .current.new current &&
  sync -f .
"""

_DISCARD = 'cd "$1" 2>/dev/null || exit 0; shift; rm -rf -- "$@"'


@dataclass(frozen=True)
class Environment:
    """What is to stand in HOME/env/<id>: a tree around an interpreter of the board."""

    home: str
    tree: Tree
    target: Target
    python: Interpreter

    @property
    def id(self) -> str:
        """The name: twelve digits of a digest over all that it is made of."""
        made_of = f"{self.tree.content}\0{self.target.library}\0{self.python.path}"
        return hashlib.sha256(made_of.encode()).hexdigest()[:12]

    @property
    def part(self) -> str:
        """The name of the archive while it arrives."""
        return f".{self.tree.sha256[:12]}.part"

    @property
    def python_path(self) -> str:
        """The interpreter that finds the packages."""
        return f"{self.home}/env/{self.id}/bin/python3"


@dataclass(frozen=True)
class Found:
    """What lies in a home: the wanted environment and agent, a part, and anything older.

    `current` is the name in use, `others` are paths below the home.
    """

    present: bool
    current: str
    partial_bytes: int
    bundle: bool
    others: tuple[str, ...]


def look(shell: Shell, wanted: Environment, bundle: str) -> Found:
    """What of `wanted`, and of the agent's bundle of that name, is on the board already."""
    said = run_script(shell, _LOOK, wanted.home, wanted.id, wanted.part, bundle).stdout
    pairs = [line.partition("=")[::2] for line in said.splitlines()]
    values = dict(pairs)
    partial = values.get("partial", "").strip()
    return Found(
        present=values.get("present") == "yes",
        current=values.get("current", ""),
        partial_bytes=int(partial) if partial.isdecimal() else 0,
        bundle=values.get("bundle") == "yes",
        others=tuple(value for name, value in pairs if name == "other"),
    )


def needed_bytes(wanted: Environment, found: Found) -> int:
    """Room that must be free before `wanted` is put there, what has arrived not counted."""
    if found.present:
        return 0
    arriving = max(0, wanted.tree.size_bytes - found.partial_bytes)
    return arriving + round(wanted.tree.unpacked_bytes * (1 + BYTECODE_SHARE)) + SPARE_BYTES


def push(
    shell: Shell, board: str, wanted: Environment, start: int, progress: Callable[[int], None]
) -> None:
    """Append the archive from byte `start` on; raises BoardDiskFull, TransferFailed.

    A connection that breaks raises BoardUnreachable and leaves a part to go on from.
    """
    part = remote_path(f"{wanted.home}/env/{wanted.part}")
    keep = "cat >>" if start else "cat >"
    folder = remote_path(f"{wanted.home}/env")
    command = f"umask 077; mkdir -p {folder} && {keep} {part}"
    result = run_fed(shell, command, _chunks(wanted.tree.archive, start, progress))
    check(result, board, "the packages could not be pushed")


def run_fed(shell: Shell, command: str, chunks: Iterator[bytes]) -> CommandResult:
    """`feed` through a POSIX shell, whatever the login shell is."""
    return shell.feed(f"exec sh -c {shlex.quote(command)}", chunks)


def _chunks(path: Path, start: int, progress: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        sent = start
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
            sent += len(chunk)
            progress(sent)


def unpack(shell: Shell, board: str, wanted: Environment) -> bool:
    """Turn the pushed archive into the environment; False when it had arrived damaged.

    Raises BoardDiskFull, TransferFailed.
    """
    result = run_script(
        shell, _UNPACK, wanted.home, wanted.id, wanted.part, wanted.tree.sha256,
        wanted.target.library, wanted.python.path, str(PurePosixPath(wanted.python.path).parent),
        str(wanted.python),
        timeout_s=max(UNPACK_TIMEOUT_S, wanted.tree.unpacked_bytes / SLOWEST_CARD_BYTES_PER_S),
    )  # fmt: skip
    if result.exit_code == _DAMAGED:
        return False
    check(result, board, "the packages could not be unpacked")
    return True


def switch(shell: Shell, board: str, wanted: Environment) -> None:
    """Make `wanted` the environment in use, in one step."""
    check(run_script(shell, _SWITCH, wanted.home, wanted.id), board, "could not switch")


def discard(shell: Shell, board: str, home: str, names: tuple[str, ...]) -> None:
    """Remove paths below a home."""
    if names:
        check(run_script(shell, _DISCARD, home, *names), board, "old versions stay")


def check(result: CommandResult, board: str, failed: str) -> None:
    """Pass when a command succeeded; raises BoardDiskFull, TransferFailed with its words."""
    if result.exit_code == 0:
        return
    said = result.stderr.strip() or f"exit code {result.exit_code}"
    if "No space left" in said or "Disk quota" in said:
        raise BoardDiskFull(f"{failed}: {said}; free some space on the board", board)
    raise TransferFailed(f"{failed}: {said}", board)
