"""sepify inspect."""

from __future__ import annotations

from sepify.cli.options import Model, Shapes, Types, input_request
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar

EXAMPLES = (
    "sepify inspect model.pt --input-shape 1,3,224,224",
    "sepify inspect torchvision.models:resnet18 --input-shape 1,3,224,224",
)


def inspect(model: Model, input_shape: Shapes = None, dtype: Types = None) -> Outcome:
    """What is worth converting: layers, their cost, how separable each is, MACs at ranks 1 to 3."""
    asked = input_request(input_shape, dtype)
    from sepify.jobs.inspect import inspect_file, render

    with progress_bar() as progress:
        found = inspect_file(model, asked, progress)
    return Outcome(render(found), found.to_dict())
