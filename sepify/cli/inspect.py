"""sepify inspect."""

from __future__ import annotations

from sepify.cli.console import out
from sepify.cli.options import Model, Shapes, Types, input_request

EXAMPLES = (
    "sepify inspect model.pt --input-shape 1,3,224,224",
    "sepify inspect torchvision.models:resnet18 --input-shape 1,3,224,224",
)


def inspect(model: Model, input_shape: Shapes = None, dtype: Types = None) -> None:
    """Layers, what they cost, how separable each is."""
    from sepify.inspecting import inspection_table
    from sepify.models import load_model

    out.print(inspection_table(load_model(model, input_request(input_shape, dtype))))
