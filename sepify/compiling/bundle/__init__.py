"""Folders for a device: with TVM's runtime, or as plain C without any."""

from sepify.compiling.bundle.make import Bundle, make_bundle

__all__ = ["Bundle", "make_bundle"]
