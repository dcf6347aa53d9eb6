"""Every check on every network of the zoo: hours. `make test-zoo` runs it; `make test` does not."""

from __future__ import annotations

import pytest

from zoo.checks import CHECKS, Check
from zoo.registry import ENTRIES
from zoo.specimen import Specimen

pytestmark = [pytest.mark.slow, pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", params=ENTRIES.values(), ids=lambda entry: entry.name)
def specimen(request: pytest.FixtureRequest) -> Specimen:
    return Specimen(request.param)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_zoo(specimen: Specimen, check: Check) -> None:
    check(specimen)
