"""Measure two networks: MACs, latency, accuracy, fidelity -> Report."""

from sepify.measuring.compare import compare
from sepify.measuring.cost import count_macs
from sepify.report.report import Report, load_report

__all__ = ["Report", "compare", "count_macs", "load_report"]
