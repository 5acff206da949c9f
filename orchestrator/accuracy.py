"""What was found, scored here with one evaluator a task, ready to be stored and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final, Literal

from agent import wire
from models import evaluate, overlap
from models.data import AnySet, DetectionSet
from models.errors import DataError
from orchestrator.score import class_map, detections_by_image
from results.matches import ImageMatches
from results.records import EvaluationRecord, ImageScoreRecord

DETECTION_EVALUATOR: Final = "hotcoco"
"""The library behind models.evaluate; its version is stored with every figure."""

Found = Sequence[wire.ImageDetections] | Sequence[wire.ImageMask]


@dataclass(frozen=True)
class Accuracy:
    """Figures over `images` images, 0..1; those of the other task are None."""

    evaluator: str
    evaluator_version: str
    images: int
    per_class: dict[str, float]
    per_image: tuple[ImageScoreRecord, ...]
    map50: float | None = None
    map50_95: float | None = None
    dice: float | None = None
    iou: float | None = None

    @property
    def main(self) -> tuple[str, float | None]:
        """The figure that speaks for the variant, and its name."""
        return ("mAP50", self.map50) if self.dice is None else ("Dice", self.dice)

    def record(
        self, name: str, split: str, subset_seed: int | None, where: Literal["board", "host"]
    ) -> EvaluationRecord:
        """As it is stored; `name` is the set's, with or without the split at its end."""
        return EvaluationRecord(
            set_name=name.removesuffix(f"/{split}"),
            split=split,
            images=self.images,
            subset_seed=subset_seed,
            map50=self.map50,
            map50_95=self.map50_95,
            where=where,
            evaluator=self.evaluator,
            evaluator_version=self.evaluator_version,
            per_class=self.per_class,
            dice=self.dice,
            iou=self.iou,
            per_image=self.per_image,
        )


def scored(
    dataset: AnySet, found: Found, class_names: Sequence[str], prep: wire.ImagePrep
) -> Accuracy:
    """Score what a model with these classes found in all images of a set.

    `prep` is how the model was fed. Raises ExperimentError when no class is shared, DataError.
    """
    classes = class_map(class_names, dataset.class_names)
    detections = [one for one in found if isinstance(one, wire.ImageDetections)]
    masks = {one.image_id: one for one in found if isinstance(one, wire.ImageMask)}
    if isinstance(dataset, DetectionSet):
        if masks:
            raise DataError(f"{dataset.name} has boxes, and masks were found")
        scores = evaluate.score(dataset, detections_by_image(detections, classes))
        return of_boxes(scores)
    if detections:
        raise DataError(f"{dataset.name} has masks, and boxes were found")
    return of_masks(overlap.score_masks(dataset, masks, prep, classes))


def of_boxes(scores: evaluate.Scores) -> Accuracy:
    """The accuracy of a detector."""
    matches = stored_matches(scores)
    return Accuracy(
        evaluator=DETECTION_EVALUATOR,
        evaluator_version=metadata.version(DETECTION_EVALUATOR),
        images=scores.images,
        per_class=scores.per_class,
        per_image=tuple(ImageScoreRecord(name, matches=found) for name, found in matches.items()),
        map50=scores.map50,
        map50_95=scores.map50_95,
    )


def of_masks(scores: overlap.MaskScores) -> Accuracy:
    """The accuracy of a segmentation."""
    return Accuracy(
        evaluator=overlap.EVALUATOR,
        evaluator_version=overlap.VERSION,
        images=scores.images,
        per_class=scores.per_class,
        per_image=tuple(ImageScoreRecord(n, dice=value) for n, value in scores.per_image.items()),
        dice=scores.dice,
        iou=scores.iou,
    )


def stored_matches(scores: evaluate.Scores) -> dict[str, ImageMatches]:
    """What was right in each image, as the database has it, in the order of the set."""
    return {
        image_id: ImageMatches(
            image.objects,
            tuple((m.class_index, m.score, m.hits, m.ignored) for m in image.found),
        )
        for image_id, image in scores.matches.items()
    }
