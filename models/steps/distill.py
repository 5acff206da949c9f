"""Step `distill`: a network learns from labelled images and from another network's outputs."""

from __future__ import annotations

from models.errors import BuildFailed
from models.nets.net import load_net, save_net
from models.steps.base import StepInput, StepResult
from models.train.fit import Teacher, fit


def run(given: StepInput) -> StepResult:
    """Train with a teacher; raises BuildFailed, ModelUnreadable, DataError."""
    if given.source is None or given.training is None:
        raise ValueError("a network and training data are needed")
    params = given.params
    student, master = load_net(given.source), load_net(given.others[params.teacher])
    if not master.arch.trained:
        raise BuildFailed(
            f"the teacher {params.teacher!r} has random weights; give it `weights:` or "
            "`steps: [{step: train}]`"
        )
    teacher = Teacher(master, params.alpha, params.temperature)
    curves = fit(student, given.training, params, given.log, teacher=teacher, resume=given.resume)
    target = given.work / "model.net"
    save_net(student, target)
    return StepResult(target, curves=curves)
