"""Unlabelled inputs, and what running both networks on them tells the solvers."""
