#!/usr/bin/env python3
"""Put the picture and the table of a run of `make demo` into docs/demo.png and README.md.

usage: update_demo.py [DEMO_DIR]
"""

from __future__ import annotations

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- demo table -->", "<!-- end of demo table -->"


def with_table(readme: str, table: str) -> str:
    """README's text with the table between the markers replaced."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def main() -> None:
    demo = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), (demo / "table.md").read_text(encoding="utf-8")))
    shutil.copyfile(demo / "digits.png", ROOT / "docs" / "demo.png")


if __name__ == "__main__":
    main()
