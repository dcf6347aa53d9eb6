"""How numbers are said."""

from __future__ import annotations

import pytest

from sepify.judging import number_words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_234_567, "1.23 MB"),
        (4_866_269_184, "4.87 GB"),
    ],
)
def test_quantities(value: float, text: str) -> None:
    assert number_words.quantity(value, "B") == text
