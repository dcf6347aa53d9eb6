"""The report: facts gathered, then shown as a table, as JSON and as one HTML page."""
