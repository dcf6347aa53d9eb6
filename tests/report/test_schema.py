"""The published schema is the one that the dataclasses have.

Set SEPIFY_WRITE_SCHEMA to write it anew after a change; count VERSION up where old files would no
longer fit.
"""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sepify.report.model import FORMAT, VERSION
from sepify.report.report import Report

PLACE = Path(str(files("sepify.report"))) / f"report-{VERSION}.schema.json"


def described() -> dict[str, Any]:
    schema = TypeAdapter(Report).json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"] = {
        "format": {"const": FORMAT},
        "version": {"const": VERSION},
        **schema["properties"],
    }
    for part in (schema, *schema["$defs"].values()):
        part["additionalProperties"] = False
        part["required"] = list(part["properties"])
        for field in part["properties"].values():
            field.pop("default", None)  # a saved report has every field
    return schema


def test_the_packaged_schema_is_up_to_date() -> None:
    text = json.dumps(described(), indent=2) + "\n"
    if os.environ.get("SEPIFY_WRITE_SCHEMA"):
        PLACE.write_text(text, encoding="utf-8")
    assert PLACE.read_text("utf-8") == text
