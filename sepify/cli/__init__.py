"""The command line, one file a command. Results go to stdout, progress and errors to stderr."""

from sepify.cli.app import main

__all__ = ["main"]
