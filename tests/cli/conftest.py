"""The shell that every test of a command has."""

from shells import shell  # noqa: F401
