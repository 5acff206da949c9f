"""Writes the generated parts of README.md: `python -m orchestrator.readme [--check]`.

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from models import recipes
from orchestrator import experimentfile
from orchestrator.errors import exit_codes
from orchestrator.profiles import PROFILES

README: Final = Path(__file__).parent.parent / "README.md"


def exit_code_table() -> str:
    """Every exit code, what it means, and the class that carries it."""
    rows = ["| code | meaning | class |", "|---|---|---|", "| 0 | done | |"]
    rows.append("| 2 | wrong use of the command line | |")
    rows += [f"| {code} | {meaning} | `{name}` |" for code, name, meaning in exit_codes()]
    return "\n".join(rows)


def recipe_table() -> str:
    """Every shipped recipe."""
    rows = ["| recipe | what it does |", "|---|---|"]
    rows += [f"| `{name}` | {recipes.get(name).description} |" for name in recipes.names()]
    return "\n".join(rows)


def profile_table() -> str:
    """Every named profile."""
    rows = ["| profile | samples | seconds | cap s | blocks | images |", "|---" * 6 + "|"]
    rows += [
        f"| `{p.name}` | ≥ {p.min_samples} | ≥ {p.min_duration_s:g} | {p.max_duration_s:g} "
        f"| {p.blocks} | {p.accuracy_images} |"
        for p in PROFILES.values()
    ]
    return "\n".join(rows)


def experiment_table() -> str:
    """Every shipped experiment."""
    rows = ["| experiment | what it measures |", "|---|---|"]
    rows += [
        f"| `{name}` | {experimentfile.load(name, Path.cwd()).description} |"
        for name in experimentfile.names()
    ]
    return "\n".join(rows)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "exit codes": exit_code_table,
    "recipes": recipe_table,
    "profiles": profile_table,
    "experiments": experiment_table,
}


def regenerate(text: str) -> str:
    """The text with every generated part written anew; raises KeyError for an unknown part."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- generated: {name} -->\n{PARTS[name]()}\n<!-- end of {name} -->"

    pattern = r"<!-- generated: ([a-z ]+) -->\n.*?<!-- end of \1 -->"
    return re.sub(pattern, part, text, flags=re.DOTALL)


def main(argv: list[str]) -> int:
    """Write the file, or with --check say whether it is as it should be."""
    before = README.read_text(encoding="utf-8")
    after = regenerate(before)
    if "--check" not in argv:
        README.write_text(after, encoding="utf-8")
        return 0
    if before != after:
        sys.stderr.write(f"{README.name} is not what the code says; run `make docs`\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
