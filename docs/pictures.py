"""Draws the README's pictures from a real run: `python docs/pictures.py` in a workspace.

The dashboard is drawn in the middle of the run, the table from the stored rows after it.
"""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

from rich.console import Console

from orchestrator import final, invocation
from orchestrator.clock import SystemClock
from orchestrator.commands.run import command
from orchestrator.dashboard import Display, Screen
from orchestrator.events import Event, TrialProgress
from orchestrator.progress import RunProgress
from orchestrator.runner import Run
from orchestrator.workspace import find
from results.queries import leaderboard
from results.store import Store

IMAGES = Path(__file__).parent / "images"
COLUMNS = 100
DRAWN_AT_TRIAL = 7
DRAWN_AT_SAMPLES = 300


def recorder() -> Console:
    """A console that only remembers."""
    return Console(file=io.StringIO(), record=True, width=COLUMNS, height=24, highlight=False)


def save(console: Console, name: str, title: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    drawn = console.export_svg(title=title)
    local_fonts = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # nothing is fetched
    (IMAGES / f"{name}.svg").write_text(local_fonts, encoding="utf-8")


class Photographer(Display):
    """A display that draws the dashboard once, well into the run."""

    def __init__(self, names: list[str], title: str) -> None:
        super().__init__(RunProgress.of(names), Console(), live=False)
        self._title, self._started_s, self._done = title, time.monotonic(), False

    def hear(self, event: Event) -> None:
        """Take the event in, and the picture when it is time."""
        super().hear(event)
        if self._done or not isinstance(event, TrialProgress):
            return
        late = event.trial.order + 1 >= DRAWN_AT_TRIAL
        if late and event.poll.phase == "sample" and event.poll.samples_done > DRAWN_AT_SAMPLES:
            console = recorder()
            console.print(Screen(self.progress, self._title, self._started_s))
            save(console, "dashboard", "orchestrator run --boards local")
            self._done = True


def main() -> None:
    options = command.make_context("run", ["--boards", "local", "demo"]).params
    location = find(Path.cwd()).database
    asked = invocation.resolve("local", "demo", location, None, options)
    title = f"{asked.experiment.name} · {asked.experiment.profile.name} · {asked.request.run_id}"
    display = Photographer([entry.name for entry in asked.entries], title)
    with Store.open(location, create=True) as store:
        report = Run(invocation.job_for(asked, display), store, display, SystemClock()).go()
        rows = leaderboard(store, report.run_id)
    console = recorder()
    final.show(console, rows, asked.experiment.baseline)
    save(console, "table", f"run {report.run_id}")


if __name__ == "__main__":
    main()
