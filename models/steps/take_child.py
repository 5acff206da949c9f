"""Program: takes an ultralytics detector apart into weights and a description of ours.

Run in a process of its own by step `take_ultralytics`; asked and answering as `export_child`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from models.nets.arch import Arch
from models.nets.ultra_yaml import described, scaled
from models.onnxfile import first_line
from models.steps.export_child import Stage, answer, open_model


def main(argument: str) -> None:
    """Write the network that the JSON request names."""
    answer(argument, _take)


def _take(request: dict[str, Any]) -> None:
    model = open_model(request)
    # After open_model, which reports it where torch is absent.
    from models.nets.net import Net, build_net, fit_shapes, save_net  # noqa: PLC0415

    if model.task != "detect" or type(model.model).__name__ != "DetectionModel":
        raise Stage(
            "take",
            f"a {type(model.model).__name__} for {model.task} cannot be changed as a network, "
            "only detectors can; use recipes that work on files, such as fp32 or int8_ptq",
        )
    trained, options = request["trained"], request["options"]
    if trained and options:
        raise Stage(
            "take",
            f"options {', '.join(options)} change the structure, which trained weights would not "
            "fit; give them with the .yaml and train",
        )
    yaml = scaled(model.model.yaml, options) if options else described(model.model.yaml)
    names = dict(model.model.names)
    count = yaml["nc"]
    arch = Arch(
        family="ultralytics",
        options={"yaml": yaml},
        imgsz_px=request["imgsz_px"],
        class_names=tuple(str(names.get(index, index)) for index in range(count)),
        trained=trained,
    )
    try:
        net = build_net(arch)
        if trained:
            state = model.model.float().state_dict()
            fit_shapes(net.module, state)
            net.module.load_state_dict(state)
    except Exception as exc:
        raise Stage("load", f"{type(exc).__name__}: {first_line(exc)}") from exc
    save_net(Net(net.module, net.arch), Path(request["target"]))


if __name__ == "__main__":
    main(sys.argv[1])
