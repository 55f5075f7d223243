"""Write docs/robustness.md: what happens with every kind of input in tools/robustness/cases.toml.

Every line is observed: the program runs on that input in a temporary directory.

Usage: make_robustness.py [--check] [--only TEXT]. With --check the document is not written: exits 1 when a case fails,
when a verdict differs from the document's, or when the document lists other cases. With --only the cases whose check or
input contain TEXT are run and printed. Needs the package: PYTHONPATH=python.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import re
import sys
import tempfile
import tomllib
import traceback
from dataclasses import dataclass
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = ROOT / "tools" / "robustness" / "cases.toml"
DOCUMENT = ROOT / "docs" / "robustness.md"
VERDICTS = ("pass", "fail", "not yet", "not here")
HEADER = """# Robustness

What happens with inputs that are known to break quantizers. Written by `tools/make_robustness.py`, which runs the
program on each of them; `--check` runs all again and compares the verdicts. "not yet" waits for a feature that this
version does not have, "not here" needs rights that the machine did not give.
"""

sys.path.insert(0, str(ROOT / "tools"))
from robustness.observe import NotHere, Wrong  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One line of the document."""

    case: dict[str, str]
    happens: str
    verdict: str


def run(case: dict[str, str]) -> Row:
    """What happens with one kind of input, and whether it is right."""
    if "waits_for" in case:
        return Row(case, f"waits for {case['waits_for']}", "not yet")
    name, *arguments = case["check"].split(":")
    module, _, function = name.partition(".")
    check = getattr(importlib.import_module(f"robustness.{module}"), function)
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        try:
            return Row(case, _clean(check(pathlib.Path(folder), *arguments), folder), "pass")
        except NotHere as reason:
            return Row(case, _clean(str(reason), folder), "not here")
        except Wrong as wrong:
            return Row(case, _clean(str(wrong), folder), "fail")
        except Exception as error:
            traceback.print_exc()
            return Row(case, _clean(f"{type(error).__name__}: {error}", folder), "fail")


def _clean(text: str, folder: str) -> str:
    return " ".join(text.replace(f"{folder}/", "").replace(folder, "the directory").split())


def document(rows: list[Row]) -> str:
    """The Markdown text."""
    text = HEADER
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    text += f"\n{len(rows)} cases: {', '.join(f'{count} {verdict}' for verdict, count in counts.items() if count)}.\n"
    section = ""
    for row in rows:
        if row.case["section"] != section:
            section = row.case["section"]
            text += f"\n## {section}\n\n| input | right | what happens | | test |\n|---|---|---|---|---|\n"
        test = row.case.get("test", "")
        cells = (row.case["input"], row.case["right"], row.happens, row.verdict, f"`{test}`" if test else "")
        text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text


def documented_verdicts(text: str) -> dict[tuple[str, str], str]:
    """Verdict by section and input."""
    verdicts: dict[tuple[str, str], str] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) == 7 and cells[4] in VERDICTS:
            verdicts[section, cells[1]] = cells[4]
    return verdicts


def dead_tests(cases: list[dict[str, str]]) -> list[str]:
    """Named tests that do not exist."""
    dead = []
    for case in cases:
        file, _, name = case.get("test", "").partition("::")
        path = ROOT / file
        if file and (not path.is_file() or not re.search(rf"\b{re.escape(name)}\b", path.read_text(encoding="utf-8"))):
            dead.append(case["test"])
    return dead


def differences(rows: list[Row]) -> list[str]:
    """What is not as the document says."""
    known = documented_verdicts(DOCUMENT.read_text(encoding="utf-8")) if DOCUMENT.exists() else {}
    found = {(row.case["section"], row.case["input"].replace("|", "\\|")): row.verdict for row in rows}
    keys = sorted(known.keys() | found.keys())
    return [
        f"{' / '.join(key)}: {known.get(key)} -> {found.get(key)}"
        for key in keys
        if known.get(key) != found.get(key) and "not here" not in (known.get(key), found.get(key))
    ]


def main(arguments: list[str]) -> int:
    """Run the cases; write the document or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="")
    options = parser.parse_args(arguments)
    cases: list[dict[str, Any]] = tomllib.loads(CASES.read_text(encoding="utf-8"))["case"]
    rows = []
    for case in cases:
        if options.only in case.get("check", "") or options.only in case["input"]:
            rows.append(run(case))
            print(f"{rows[-1].verdict:8}{case['section']}: {case['input']}", flush=True)
            if rows[-1].verdict == "fail" or options.only:
                print(f"        {rows[-1].happens}")
    problems = [f"no such test: {test}" for test in dead_tests(cases)]
    if options.check:
        problems += differences(rows)
    elif not options.only:
        DOCUMENT.write_text(document(rows), encoding="utf-8")
    for problem in problems:
        print(f"make_robustness: {problem}")
    return 1 if problems or any(row.verdict == "fail" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
