"""Files in, files out, all or none: one file a command."""
