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
    """

    pixels: int
    vectors: int
    rows: int
    splits: int
    weight_bytes: int = 16 * 1024  # half of a first level cache
    unroll: int = 16
    row_tile: int = 8
