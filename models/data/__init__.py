"""Data sets in VOC, COCO and YOLO layouts and in folders of masks, and two procedural ones."""

from models.data.files import image_files
from models.data.loading import load, load_for, load_segmentation, task_of
from models.data.masks import read_labels
from models.data.types import (
    IGNORE,
    AnySet,
    Box,
    DetectionSet,
    LabelledImage,
    MaskedImage,
    SegmentationSet,
    Task,
)
from models.spec import DataSpec

__all__ = [
    "IGNORE",
    "AnySet",
    "Box",
    "DataSpec",
    "DetectionSet",
    "LabelledImage",
    "MaskedImage",
    "SegmentationSet",
    "Task",
    "image_files",
    "load",
    "load_for",
    "load_segmentation",
    "read_labels",
    "task_of",
]
