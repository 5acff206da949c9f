"""Step `take_ultralytics`: a detector by ultralytics as a network. Needs the extra `models`."""

from __future__ import annotations

from models.steps.base import StepInput, StepResult
from models.steps.export import in_child


def run(given: StepInput) -> StepResult:
    """Read the model in a child process; raises what `models.steps.export.raise_failure` does."""
    source = given.model.source
    target = given.work / "model.net"
    given.log(f"taking the network of {source.reference} at {given.params.imgsz_px} px")
    in_child(
        given,
        "models.steps.take_child",
        {
            "target": str(target),
            "imgsz_px": given.params.imgsz_px,
            "options": source.options,
            "trained": source.reference.endswith(".pt"),
        },
    )
    return StepResult(target)
