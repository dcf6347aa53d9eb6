"""The tables of the latency benchmark."""

from __future__ import annotations

from typing import Any

from latency_networks import NETWORKS
from runtimes import PEERS


def show(results: dict[str, Any], names: list[str], threads: int) -> None:
    """Every contender's times, then the summary."""
    for name in names:
        result = results[f"{name} {threads}"]
        print(f"\n{name}, {threads} threads, {result['macs'] / 1e6:.1f} M MACs")
        print(f"  {'ms':26s} {'min':>8s} {'median':>8s} {'p10':>8s} {'p90':>8s}")
        for contender, row in result["contenders"].items():
            numbers = " ".join(f"{row[k]:8.3f}" for k in ("min", "median", "p10", "p90"))
            print(f"  {contender:26s} {numbers}")
        for peer, why in result["missing"].items():
            print(f"  {peer:26s} left out: {why}")
    print(f"\nsummary, {threads} threads: ratios of minima (of medians) to the fastest peer")
    print(
        f"  {'network':19s} {'sepify':26s} {'ratio':>13s} {'goal':>5s} {'of FMA peak':>11s} "
        f"{'speed-up / MAC ratio':>21s}  fastest peer"
    )
    for name in names:
        for line in summary(results, name, threads):
            print(f"  {line}")
    for line in worth_of_tuning(results, names, threads):
        print(line)


def summary(results: dict[str, Any], name: str, threads: int) -> list[str]:
    """One line for each way in which sepify compiled the network."""
    result = results[f"{name} {threads}"]
    entry, rows = NETWORKS[name], result["contenders"]
    peers = {peer: rows[peer] for peer in PEERS if peer in rows}
    lines = []
    for contender, row in rows.items():
        if contender in peers or not peers:
            continue
        fastest = min(peers, key=lambda peer: peers[peer]["min"])
        by_min = row["min"] / peers[fastest]["min"]
        by_median = row["median"] / min(p["median"] for p in peers.values())
        goal = f"{entry.goal[threads]:.2f}" if entry.goal and threads in entry.goal else "-"
        peak = result["facts"]["peak_gflops"]
        share = f"{2 * result['macs'] / row['min'] / 1e6 / peak:.0%}" if peak else "-"
        gain = "-"
        before = results.get(f"{entry.original} {threads}")
        if before is not None:
            faster = min(r["min"] for r in before["contenders"].values()) / row["min"]
            fewer = before["macs"] / result["macs"]
            gain = f"{faster:.2f}x / {fewer:.2f}x = {faster / fewer:.2f}"
        lines.append(
            f"{name:19s} {contender:26s} {by_min:5.2f} ({by_median:5.2f}) {goal:>5s} {share:>11s} "
            f"{gain:>21s}  {fastest}"
        )
    return lines


def worth_of_tuning(results: dict[str, Any], names: list[str], threads: int) -> list[str]:
    """What the built-in knobs lose against tuned ones, for each network that ran with both."""
    lines = []
    for name in names:
        rows = results[f"{name} {threads}"]["contenders"]
        for tuned in (row for row in rows if row.startswith("sepify tuned")):
            untuned = tuned.replace("tuned", "untuned")
            if untuned in rows:
                by = {k: rows[untuned][k] / rows[tuned][k] for k in ("min", "median")}
                ratio = f"{by['min']:5.2f} ({by['median']:5.2f})"
                lines.append(f"  {name:19s} {untuned:26s} {ratio}  of the time when tuned")
    if lines:
        lines.insert(0, f"\nwhat tuning is worth, {threads} threads: ratios of minima (of medians)")
    return lines
