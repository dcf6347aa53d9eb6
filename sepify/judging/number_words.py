"""Numbers as text: units, ratios, intervals."""

from __future__ import annotations

from sepify.judging.statistics import Accuracy, Interval


def quantity(value: float, unit: str = "") -> str:
    """12345678 -> "12.3 M"; the unit follows the prefix: "12.3 MB"."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 0.9995: what would round to 1000 of a prefix is 1.00 of the next
        if abs(value) >= 0.9995 * limit:
            return f"{digits(value / limit)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def milliseconds(seconds: float) -> str:
    """0.00123 -> "1.23"; without its unit, three digits."""
    return digits(seconds * 1e3)


def percent(share: float, digits: int = 2) -> str:
    """0.9276 -> "92.76 %"."""
    return f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """-0.009 -> "-0.90", in percentage points, with a true minus sign."""
    text = f"{100 * difference:+.2f}"
    return text.replace("-", "\N{MINUS SIGN}")


def change(before: float, after: float, less: str = "fewer", more: str = "more") -> str:
    """How many times less or more `after` is than `before`: "4.7x fewer"."""
    if before == after:
        return "the same"
    if not before or not after:
        return more if after else "none left"
    times = before / after
    return f"{factor(times)} {less}" if times > 1 else f"{factor(1 / times)} {more}"


def factor(times: float) -> str:
    """4.7123 -> "4.71x", with a multiplication sign."""
    return f"{digits(times)}\N{MULTIPLICATION SIGN}"


def decimal(value: float) -> str:
    """0.812345 -> "0.812"; three or four digits, with a true minus sign."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """0.0123 -> "+0.0123"."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def decimal_range(estimate: Interval) -> str:
    """The 95 % interval of a number: "0.81 to 0.83"."""
    return f"{decimal(estimate.low)} to {decimal(estimate.high)}"


def interval(estimate: Interval) -> str:
    """The 95 % interval of a share: "92.2 to 93.2 %"."""
    return f"{100 * estimate.low:.2f} to {100 * estimate.high:.2f} %"


def p_value(p: float) -> str:
    """p = 0.03, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def difference(accuracy: Accuracy) -> str:
    """after - before in points with its interval: "-0.90 points (-1.20 to -0.61)"."""
    given = accuracy.difference
    return f"{points(given.value)} points ({points(given.low)} to {points(given.high)})"


def range_text(low: float, high: float) -> str:
    """Two times in seconds as a range of ms: "1.20-1.31"."""
    return f"{milliseconds(low)}\N{EN DASH}{milliseconds(high)}"


def threads_text(threads: int) -> str:
    """1 -> "1 thread"."""
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def digits(value: float) -> str:
    """Three significant digits, never in exponents: 0.0123, 1.23, 12.3, 123."""
    magnitude = abs(value)
    if magnitude >= 99.95:
        return f"{value:.0f}"
    if magnitude >= 9.995:
        return f"{value:.1f}"
    if magnitude >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.3f}" if magnitude >= 0.09995 else f"{value:.4f}"
