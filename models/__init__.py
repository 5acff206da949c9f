"""Models, recipes and data: makes the artifacts that boards measure, and scores detections."""
