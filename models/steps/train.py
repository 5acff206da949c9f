"""Steps `train` and `finetune`: a network learns from labelled images."""

from __future__ import annotations

from models.nets.net import load_net, save_net
from models.steps.base import StepInput, StepResult
from models.train.fit import fit


def run(given: StepInput) -> StepResult:
    """Train with the parameters as settings; raises BuildFailed, ModelUnreadable, DataError."""
    if given.source is None or given.training is None:
        raise ValueError("a network and training data are needed")
    net = load_net(given.source)
    curves = fit(net, given.training, given.params, given.log, resume=given.resume)
    target = given.work / "model.net"
    save_net(net, target)
    return StepResult(target, curves=curves)
