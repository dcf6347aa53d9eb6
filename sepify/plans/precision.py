"""The precisions that a layer can run at."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["float32", "float16", "bfloat16", "int8", "W4A8"]
"""int8: weights and activations of 8 bits; W4A8: weights of 4 bits, activations of 8."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
INTEGERS: frozenset[Precision] = frozenset({"int8", "W4A8"})
HALVES: frozenset[Precision] = frozenset({"float16", "bfloat16"})
