"""Measuring what was erased, what was kept and what comes back: metrics, protocol, report, detectors."""
