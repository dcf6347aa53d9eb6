"""What may be tuned in a kernel without changing what it computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Knobs:
    """How a kernel cuts its work. A kind of kernel ignores what it has no use for.

    `pixels` x `vectors` accumulators are kept in registers at most; a task computes `rows` output
    rows (of one image) of one of `splits` equal parts of the output vectors; `weight_bytes` of
    weights at most pass through the first level cache at a time; `unroll` steps of the reduction
    are written out; `row_tile` pixels of a depthwise row are filtered at a time.

    `winograd` is the side of the output tiles of Winograd's algorithm, 0 for the direct one. With
    it tiles are what pixels and rows are otherwise: `pixels` of them are accumulated at a time, and
    a task computes `rows` of them. It decides how the weights are packed.
    """

    pixels: int
    vectors: int
    rows: int
    splits: int
    weight_bytes: int = 16 * 1024  # half of a first level cache
    unroll: int = 16
    row_tile: int = 8
    winograd: int = 0
