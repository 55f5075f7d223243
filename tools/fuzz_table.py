"""Rewrite the table of docs/fuzzing.md from the logs of tools/run_fuzzers.sh.

usage: fuzz_table.py LOG_DIR [DOCUMENT]

A log that ends in a crash, a hang or a leak gives a row that says so, and so does one that was interrupted. A target
whose run has not ended, or that has no log there, keeps the row that it has.
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
    crash = next(filter(None, failure.groups())) if failure else "0" if done else "0, interrupted"
    coverage = re.findall(r"cov: (\d+) ", log)
    seconds = done.group(1) if done else "-"
    return (
        f"| `{name}` | {WHAT.get(name, name)} | {runs:,} | {seconds} | {figure(log, 'average_exec_per_sec'):,} "
        f"| {coverage[-1] if coverage else '-'} | {figure(log, 'peak_rss_mb')} | {crash} |"
    )


def table(folder: Path, before: str) -> str:
    """The table of all logs of a folder, with rows of other targets from the table ``before``."""
    head = "| target | input | executions | seconds | per second | edges | peak MB | crashes |\n"
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", before, re.MULTILINE)}
    for path in folder.glob("*.log"):
        new = row(path.stem, path.read_text(encoding="utf-8", errors="replace"))
        if new is not None:
            rows[path.stem] = new
    return head + "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows[name] for name in sorted(rows))


def main(arguments: list[str]) -> int:
    """Replace what stands between the marks of the document."""
    document = Path(arguments[1]) if len(arguments) > 1 else DOCUMENT
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{table(Path(arguments[0]), old)}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
