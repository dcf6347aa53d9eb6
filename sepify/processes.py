"""Which of several processes this one is: asked before torch is loaded."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that `accelerate launch` (or
    torchrun) began: the one that writes files and speaks."""
    return os.environ.get("RANK", "0") == "0"
