"""Documents that a script writes and CI compares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(document: Path, make_text: Callable[[], str], usage: str | None) -> int:
    """Write the document, or with the argument --check compare it; the exit code."""
    arguments = sys.argv[1:]
    if arguments not in ([], ["--check"]):
        print(usage)
        return 2
    text = make_text()
    if not arguments:
        document.write_text(text, encoding="utf-8")
        return 0
    if document.exists() and document.read_text(encoding="utf-8") == text:
        return 0
    print(f"{document} is out of date: run tools/{Path(sys.argv[0]).name}", file=sys.stderr)
    return 1
