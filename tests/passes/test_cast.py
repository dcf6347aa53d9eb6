"""Fewer bits inside, float32 outside."""

from __future__ import annotations

import pytest
import torch
from nets import Plain, images, relative_error, rewritten, seeded
from torch import fx

from sepify.passes.cast import Cast


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
def test_weights_and_activations_are_cast_and_inputs_and_outputs_are_not(dtype, most):
    given = fx.symbolic_trace(seeded(Plain()))
    made = rewritten(given, Cast(dtype))
    assert {p.dtype for p in made.parameters()} == {dtype}
    seen = made.conv2.register_forward_hook(lambda _m, _i, y: types.append(y.dtype))
    types: list[torch.dtype] = []
    answer = made(images())
    seen.remove()
    assert types == [dtype]
    assert answer.dtype == torch.float32
    assert 0 < relative_error(answer, given(images())) < most


def test_float32_changes_nothing():
    assert not Cast().apply(fx.symbolic_trace(seeded(Plain()))).changed
