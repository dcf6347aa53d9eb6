"""What a person gives at a shell to judge a model by: data, calibration images, a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sepify.errors import UsageError
from sepify.formats.loaded import LoadedModel
from sepify.images import LabelledImages, Preparation, open_labelled, read_images, read_preparation
from sepify.judging.metrics import Metric
from sepify.measuring.data import Labelled, warn_if_guessing
from sepify.measuring.layers import plan_document
from sepify.plans.plan import Plan
from sepify.process.progress import Progress
from sepify.process.user_modules import import_named
from sepify.report.model import InputFile, Origin
from sepify.storage import file_digest

IMPRESSION = 512  # labelled images that the original is tried on before anything else


@dataclass(frozen=True)
class DataRequest:
    """The options that name data, as a person gave them; `command` is the whole command."""

    data: str | None = None
    calibration: str | None = None
    preprocess: str | None = None
    metric: str | None = None
    command: str = ""
    mirror: bool = False  # calibrate on the mirror images too


@dataclass(frozen=True)
class LabelledData:
    """What a DataRequest names, opened; None for what it does not name."""

    labelled: Labelled | None = None
    names: tuple[str, ...] = ()
    calibration: Tensor | None = None
    metric: Metric | None = None
    preparation: Preparation | None = None


def gather_data(request: DataRequest, model: LoadedModel, *, others: bool = False) -> LabelledData:
    """Open what was named, for the model's first input; `others` says whether there are other
    images to be prepared alike.

    Warns (DataWarning) where the model's top-1 on the labelled images is near chance: before
    anything else is done. Raises what opening raises, and UsageError for a metric without data.
    """
    if request.metric is not None and request.data is None:
        raise UsageError("--metric needs --data to be measured on")
    if request.mirror and request.calibration is None:
        raise UsageError("--mirror needs --calibration: the images to mirror")
    if request.preprocess is not None and not (request.data or request.calibration or others):
        raise UsageError("--preprocess is for images, and there are none: leave it out")
    shape = tuple(model.inputs[0].shape)
    preparation = None if request.preprocess is None else read_preparation(request.preprocess)
    metric = None if request.metric is None else _metric(request.metric)
    labelled: Labelled | None = None
    names: tuple[str, ...] = ()
    if request.data is not None:
        labelled = open_labelled(request.data, preparation, shape)
        if isinstance(labelled, LabelledImages):
            names = labelled.names
            if metric is None:
                warn_if_guessing(model.module, *labelled.sample(IMPRESSION))
    calibration = None
    if request.calibration is not None:
        calibration = read_images(request.calibration, preparation, shape)
        if model.inputs[0].is_floating_point():  # as the network takes them, here and in a report
            calibration = calibration.to(model.inputs[0].dtype)
        if request.mirror:
            calibration = with_mirror_images(calibration)
    return LabelledData(labelled, names, calibration, metric, preparation)


def with_mirror_images(images: Tensor) -> Tensor:
    """(n, C, H, W) -> (2n, C, H, W): the images, then each with left and right exchanged."""
    if images.dim() != 4:
        raise UsageError(f"--mirror is for images (n, C, H, W), not for {tuple(images.shape)}")
    return torch.cat([images, images.flip(3)])


def _metric(spec: str) -> Metric:
    found: Metric = import_named(spec)
    if not callable(found):
        raise UsageError(f"--metric {spec} is a {type(found).__name__}, not a function")
    return found


def origin_of(
    roles: Mapping[str, str | Path],
    request: DataRequest,
    plan: Plan | None,
    progress: Progress | None = None,
    staged: Mapping[Path, Path] | None = None,
) -> Origin:
    """The reproduction block of a report: the command, the plan, and the hash of every file that
    was read; what is module:function has none. `staged` says where a file lies that is not in its
    place yet."""
    named = {**roles, "labelled data": request.data, "calibration": request.calibration}
    files = []
    for role, name in named.items():
        path = Path(str(name).partition("#")[0]) if name is not None else None
        path = (staged or {}).get(path, path) if path is not None else None
        if path is not None and path.exists():
            what = f"hash of {role}, megabytes"
            tell = None if progress is None else partial(progress, what)
            size, digest = file_digest(path, tell)
            files.append(InputFile(role, str(name), size, digest))
    return Origin(request.command, tuple(files), plan_document(plan))
