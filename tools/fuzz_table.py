"""Rewrite the table of docs/fuzzing.md from the logs of tools/run_fuzzers.sh.

usage: fuzz_table.py LOG_DIR [DOCUMENT]

A log that ends in a crash, a hang or a leak gives a row that says so; a run that has not ended gives none.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "fuzzing.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

WHAT = {
    "header": "safetensors header",
    "checkpoint": "index JSON and names of weight files",
    "config": "configuration, JSON",
    "yaml": "configuration, YAML",
    "model_reader": "Parquet file, all layouts",
    "record_row": "Parquet row, all layouts",
}

_FAILURE = re.compile(r"ERROR: (?:libFuzzer|AddressSanitizer|LeakSanitizer): (.*)|runtime error: (.*)")


def figure(log: str, name: str) -> int | None:
    """A figure of libFuzzer's final statistics."""
    match = re.search(rf"^stat::{name}:\s+(\d+)$", log, re.MULTILINE)
    return int(match.group(1)) if match else None


def row(name: str, log: str) -> str | None:
    """One row of the table, or None for a run that has not ended."""
    runs = figure(log, "number_of_executed_units")
    if runs is None:
        return None
    done = re.search(r"^Done \d+ runs in (\d+) second", log, re.MULTILINE)
    failure = _FAILURE.search(log)
    crash = next(filter(None, failure.groups())) if failure else "0"
    coverage = re.findall(r"cov: (\d+) ", log)
    seconds = done.group(1) if done else "-"
    return (
        f"| `{name}` | {WHAT.get(name, name)} | {runs:,} | {seconds} | {figure(log, 'average_exec_per_sec'):,} "
        f"| {coverage[-1] if coverage else '-'} | {figure(log, 'peak_rss_mb')} | {crash} |"
    )


def table(folder: Path) -> str:
    """The table of all logs of a folder."""
    head = "| target | input | executions | seconds | per second | edges | peak MB | crashes |\n"
    rows = [row(path.stem, path.read_text(encoding="utf-8", errors="replace")) for path in sorted(folder.glob("*.log"))]
    return head + "|---|---|---|---|---|---|---|---|\n" + "\n".join(filter(None, rows))


def main(arguments: list[str]) -> int:
    """Replace what stands between the marks of the document."""
    document = Path(arguments[1]) if len(arguments) > 1 else DOCUMENT
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{table(Path(arguments[0]))}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
