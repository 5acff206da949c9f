"""Program: trains one network of ultralytics. Run in a process of its own by models.train.ultra.

Its argument is the path of a request; it writes the trained weights and an answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from models.errors import ModelsError
from models.onnxfile import first_line
from models.orphan import end_with_parent
from models.store import CurvePoint
from models.train.ultra import Answer, Request, read_request, say


def main(path: str) -> None:
    """Train as the request says."""
    request = read_request(Path(path))
    end_with_parent(request.parent_pid)
    try:
        answer = Answer(curves=_train(request))
    except ModelsError as exc:
        answer = Answer(failed=type(exc).__name__, error=str(exc))
    except Exception as exc:  # noqa: BLE001 - ultralytics raises anything; this is the edge
        answer = Answer(failed="BuildFailed", error=f"{type(exc).__name__}: {first_line(exc)}")
    request.answer.write_bytes(msgspec.json.encode(answer))


def _train(request: Request) -> tuple[CurvePoint, ...]:
    import safetensors.torch  # noqa: PLC0415 - here what they raise is reported
    import torch  # noqa: PLC0415

    from models.nets.net import load_net  # noqa: PLC0415

    net = load_net(request.net)
    teacher = None if request.teacher is None else load_net(request.teacher).module
    from models.train.ultra_trainer import train  # noqa: PLC0415 - imports all of ultralytics

    torch.set_num_threads(request.threads)  # ultralytics takes one fewer than there are
    result = train(request, net, teacher, say)
    state = {name: value.cpu().contiguous().clone() for name, value in result.state.items()}
    safetensors.torch.save_file(state, str(request.trained))
    return result.points


if __name__ == "__main__":
    main(sys.argv[1])
