"""Plans in files, to be edited and given back."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any


def save_plan(plan: dict[str, Any], path: pathlib.Path) -> None:
    """Write what ArrowQuantV2.plan or a run returned, a line for each entry; ``path`` appears whole or not at all."""
    lines = []
    for key, value in plan.items():
        if key in ("layers", "kept") and value:
            entries = ",\n".join(f"  {json.dumps(entry)}" for entry in value)
            lines.append(f"{json.dumps(key)}: [\n{entries}\n ]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    text = "{\n " + ",\n ".join(lines) + "\n}\n"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
