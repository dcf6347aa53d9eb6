"""Devices: what can be said of one without having it, and the ones that are there, over RPC."""
