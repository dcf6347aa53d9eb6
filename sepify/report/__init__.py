"""The report: data (`model.py`), one renderer for each suffix (`render.py`), and its words."""
