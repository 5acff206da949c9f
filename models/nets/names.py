"""Names of classes where no data set has given them yet."""

from __future__ import annotations

from typing import Final

_VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
)
VOC: Final = tuple(_VOC.split())
"""PASCAL VOC's twenty, in the order of their names."""

_COCO = (
    "person;bicycle;car;motorcycle;airplane;bus;train;truck;boat;traffic light;fire hydrant;"
    "stop sign;parking meter;bench;bird;cat;dog;horse;sheep;cow;elephant;bear;zebra;giraffe;"
    "backpack;umbrella;handbag;tie;suitcase;frisbee;skis;snowboard;sports ball;kite;baseball bat;"
    "baseball glove;skateboard;surfboard;tennis racket;bottle;wine glass;cup;fork;knife;spoon;"
    "bowl;banana;apple;sandwich;orange;broccoli;carrot;hot dog;pizza;donut;cake;chair;couch;"
    "potted plant;bed;dining table;toilet;tv;laptop;mouse;remote;keyboard;cell phone;microwave;"
    "oven;toaster;sink;refrigerator;book;clock;vase;scissors;teddy bear;hair drier;toothbrush"
)
COCO: Final = tuple(_COCO.split(";"))
"""COCO's eighty, in the order of their category ids."""


def default_names(task: str, num_classes: int) -> tuple[str, ...]:
    """COCO's or VOC's names for 80 or 20 classes of a detector, else `class0`, `class1` ..."""
    if task == "detect" and num_classes == len(COCO):
        return COCO
    if task == "detect" and num_classes == len(VOC):
        return VOC
    return tuple(f"class{index}" for index in range(num_classes))
