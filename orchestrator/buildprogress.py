"""How far builds are, from their log lines; and how that is drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LINE: Final = re.compile(
    r"(?:\S+: )?(?P<label>\S+ for \S+): step (?P<step>\w+)(?:: (?P<said>.*))?"
)
_SHARE: Final = re.compile(r"(?:epoch |with )(?P<done>\d+)(?:/| of )(?P<all>\d+)")
_BAR_WIDTH: Final = 20


@dataclass
class Build:
    """One variant: the step that is at work, how much of it is done, and what it said last."""

    steps: int
    begun: int = 0
    step: str = ""
    share: float = 0.0
    said: str = ""

    @property
    def done(self) -> float:
        """Steps that are done, with the share of the one at work."""
        return max(0.0, self.begun - 1 + self.share)


@dataclass
class Builds:
    """Builds by label, as `models.chain.VariantRequest.label` names them."""

    builds: dict[str, Build] = field(default_factory=dict)

    def begin(self, steps: Mapping[str, int]) -> None:
        """Builds to come, with their numbers of steps."""
        self.builds = {label: Build(count) for label, count in steps.items() if count}

    def end(self) -> None:
        """All have ended."""
        self.builds = {}

    def hear(self, line: str) -> None:
        """Take a log line in; others than those of a step are ignored."""
        match = _LINE.fullmatch(line)
        build = self.builds.get(match["label"]) if match else None
        if match is None or build is None:
            return
        if match["step"] != build.step or match["said"] is None:
            build.step, build.share = match["step"], 0.0
            build.begun = min(build.begun + 1, build.steps)
        said = match["said"] or ""
        share = _SHARE.search(said)
        if share is not None and int(share["all"]) > 0:
            build.share = min(1.0, int(share["done"]) / int(share["all"]))
        build.said = said

    def table(self, rows: int) -> Table:
        """A bar for each build at work, those that only wait as a number."""
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(width=_BAR_WIDTH)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        at_work = [(label, build) for label, build in self.builds.items() if build.begun]
        shown = at_work[-(max(1, rows - 1)) :]
        for label, build in shown:
            bar = ProgressBar(total=build.steps, completed=build.done, width=_BAR_WIDTH)
            table.add_row(
                Text(label.rpartition(" for ")[0], style="bold"),
                bar,
                Text(f"{build.begun}/{build.steps} {build.step}"),
                Text(build.said, style="dim"),
            )
        if len(shown) < len(self.builds):
            rest = Text(f"{len(self.builds) - len(shown)} more builds", style="dim")
            table.add_row(rest, "", "", "")
        return table
