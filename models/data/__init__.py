"""Detection data sets: VOC, COCO and YOLO layouts, and a procedural set of our own."""

from models.data.files import image_files
from models.data.loading import load
from models.data.types import Box, DataSpec, DetectionSet, LabelledImage

__all__ = ["Box", "DataSpec", "DetectionSet", "LabelledImage", "image_files", "load"]
