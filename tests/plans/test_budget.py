import pytest

import sepify
from sepify.errors import UsageError
from sepify.plans.budget import Budget, read_budget


@pytest.mark.parametrize(
    ("options", "original", "limit"),
    [
        (dict(macs=0.35), 1000, 350),
        (dict(macs="35%"), 1000, 350),
        (dict(macs=1.0), 1000, 1000),
        (dict(macs=6_500_000), 1e9, 6.5e6),
        (dict(macs="6.5M"), 1e9, 6.5e6),
        (dict(params="250k"), 1e9, 250e3),
        (dict(params=0.1), 70, 7),
        (dict(size_mb=1.5), 9e9, 1.5),
        (dict(latency="50%", target="native"), 0.01, 0.005),
        (dict(latency="2.5ms", target="native"), 0.01, 0.0025),
        (dict(accuracy_drop=0.5), 1, 0.5),
        (dict(agreement="98%"), 1, 0.98),
    ],
)
def test_limits(options, original, limit):
    assert sepify.Budget(**options).limit.of(original) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "gives nothing"),
        (dict(macs=0.3, params=0.3), "gives macs and params"),
        (dict(macs=0), "macs 0 is no budget"),
        (dict(macs=-0.5), "-0.5 is no budget"),
        (dict(macs=True), "True is no budget"),
        (dict(macs=float("nan")), "nan is no budget"),
        (dict(macs=1.5), "1.5 is no share .* has no unit"),
        (dict(macs="35"), "'35' is no share .* has no unit; give 0.35, '35%'"),
        (dict(macs="150%"), "no share"),
        (dict(macs="5ms"), "not understood"),
        (dict(macs="1.2.3"), "not understood"),
        (dict(params="many"), "not understood"),
        (dict(size_mb=0), "size_mb 0 is no budget"),
        (dict(accuracy_drop=0), "accuracy_drop 0 is no budget"),
        (dict(agreement=98), "98 is no share .* give 0.98 or '98%'"),
        (dict(latency="5ms"), "latency and target go together"),
        (dict(macs=0.5, target="native"), "latency and target go together"),
        (dict(latency=5, target="native"), "has no unit; give 0.5"),
    ],
)
def test_budgets_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        Budget(**options)


def test_a_budget_as_written_at_a_shell():
    assert read_budget("macs=35%") == Budget(macs="35%")
    assert read_budget("size-mb=1.5") == Budget(size_mb=1.5)
    assert read_budget("latency=50%@native") == Budget(latency="50%", target="native")
    assert read_budget("agreement=98%").points == pytest.approx(2)
    assert str(read_budget("latency=2ms@onnxruntime")) == "latency 2ms on onnxruntime"


@pytest.mark.parametrize("text", ["35%", "speed=3", "size_mb=big", "accuracy_drop=1@native"])
def test_budgets_at_a_shell_that_are_not_understood(text):
    with pytest.raises(UsageError, match="not understood"):
        read_budget(text)
