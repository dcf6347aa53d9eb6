"""Quantisation after training: scales, rounded weights, and the walk beside the given network."""
