"""The lab's boards as an inventory of their own, which is read beside the user's."""

from __future__ import annotations

from typing import Any

import yaml

from orchestrator.lab import image, keys, machine
from orchestrator.lab.kinds import LABEL, kind_of
from orchestrator.lab.layout import BoardState, Lab, replace_file

_HEAD = "# Written by `orchestrator lab`; changes are lost. Virtual boards of this workspace.\n"


def write(lab: Lab) -> None:
    """List every board that was made, switched on or not; no file where there is none."""
    states = [state for folder in lab.boards() if (state := folder.read()) is not None]
    if not states:
        lab.inventory.unlink(missing_ok=True)
        return
    text = yaml.safe_dump(document(states, lab.ssh_config.name), sort_keys=False)
    replace_file(lab.inventory, (_HEAD + text).encode())


def document(states: list[BoardState], ssh_config: str) -> dict[str, Any]:
    """The inventory file's content."""
    return {"ssh_config": ssh_config, "boards": {state.name: _board(state) for state in states}}


def _board(state: BoardState) -> dict[str, Any]:
    board: dict[str, Any] = {
        "address": machine.LOOPBACK,
        "port": state.port,
        "user": keys.USER,
        "labels": [LABEL],
        "arch": kind_of(state.name).isa,
    }
    return board if state.packages is None else board | {"python": image.BOARD_PYTHON}
