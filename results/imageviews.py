"""The view of single images: what one variant finds where another does not."""

from __future__ import annotations

from typing import Final

from results.view import View, ViewColumn, plain

V_IMAGE_SCORES: Final = View(
    name="v_image_scores",
    comment=(
        "One row an image of an evaluation. Two variants scored on the same set pair by "
        "`image_id`; `orchestrator compare` gives the interval of their difference."
    ),
    columns=(
        plain("e", "run_id", "the run"),
        ViewColumn("board", "t.board", "name of the board; NULL: the host ran the inference"),
        ViewColumn("model", "COALESCE(t.model, a.model)", "model"),
        ViewColumn("variant", "COALESCE(t.variant, a.variant)", "variant; `fp32` is the original"),
        ViewColumn("isa", "COALESCE(t.isa, a.isa)", "instruction set it was built for"),
        ViewColumn("eval_set", "e.set_name", "set"),
        ViewColumn("eval_split", "e.split", "split of the set"),
        plain("i", "place", "place among the images, from 0"),
        plain("i", "image_id", "the image's name within its set"),
        plain("i", "dice", "Dice of the image, 0..1; NULL: a detection"),
        plain("i", "matches_json", "which detections were right; NULL: a segmentation"),
        plain("i", "evaluation_no", "number of the evaluation"),
    ),
    from_sql="""\
FROM image_scores i
JOIN evaluations e ON e.evaluation_no = i.evaluation_no
JOIN artifacts a ON a.artifact_sha256 = e.artifact_sha256
LEFT JOIN trials t ON t.trial_no = e.trial_no""",
)
