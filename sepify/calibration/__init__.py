"""Calibration: both networks run side by side on unlabelled inputs; layers solved and refined."""
