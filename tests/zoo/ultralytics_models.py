"""The families of YOLO: detection, segmentation, pose, oriented boxes, classification."""

from __future__ import annotations

from functools import partial

from torch import nn

from zoo.entry import Entry

# family -> configuration files that come with the package; the letter n is the smallest scale
FAMILIES = {
    "yolov3": "yolov3-tiny yolov3-spp",
    "yolov5": "yolov5n yolov5n-p6",
    "yolov6": "yolov6n",
    "yolov8": "yolov8n yolov8n-cls yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-ghost yolov8n-p2",
    "yolov9": "yolov9t yolov9s",
    "yolov10": "yolov10n yolov10s",
    "yolo11": "yolo11n yolo11n-cls yolo11n-seg",
    "yolo12": "yolo12n yolo12n-cls",
    "yolo26": "yolo26n yolo26n-cls yolo26n-seg yolo26n-pose",
    "rtdetr": "rtdetr-l rtdetr-resnet50",
}
TASKS = {
    "cls": "ClassificationModel",
    "seg": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
}


def entries() -> list[Entry]:
    """The networks above; ultralytics is imported when one is built."""
    return [
        Entry(f"ultralytics/{name}", "ultralytics", family, partial(_build, name), 64, 128)
        for family, names in FAMILIES.items()
        for name in names.split()
    ]


def _build(name: str) -> nn.Module:
    from zoo import torchvision_shim  # noqa: F401

    from ultralytics.nn import tasks  # isort: skip

    kind = TASKS.get(name.rpartition("-")[2], "DetectionModel")
    if name.startswith("rtdetr"):
        kind = "RTDETRDetectionModel"
    return getattr(tasks, kind)(f"{name}.yaml", verbose=False)
