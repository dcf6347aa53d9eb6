"""Models as files: `table` lists the formats, `load` and `save` go by it."""
