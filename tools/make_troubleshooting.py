"""Write docs/troubleshooting.md from what the program says in the cases of tools/troubleshooting_cases.py.

Messages and remedies are observed: each case runs in a temporary directory.

Usage: make_troubleshooting.py [--check]. With --check nothing is written; exits 1 when the document is out of date.
Needs the built package on the path, and PyTorch.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import tempfile
from pathlib import Path

for _name in [name for name in os.environ if name.startswith("ARROW_QUANT_")]:
    del os.environ[_name]

from arrow_quant_v2 import ArrowQuantError  # noqa: E402
from generated_document import write_or_check  # noqa: E402
from troubleshooting_cases import SECTIONS, Case  # noqa: E402

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "troubleshooting.md"

INTRODUCTION = """\
# Troubleshooting

<!-- Written by tools/make_troubleshooting.py: messages are what the program says in tools/troubleshooting_cases.py. -->

Every error names file, tensor and value where it has them, and what to do. The command line prints it after `error:`
and exits with 1 where quality is too low, 2 for wrong usage or configuration, 3 for bad input; `--debug` adds the
traceback. With `--json` it is `{"error": {"code": ..., "message": ..., "file": ..., "tensor": ..., "remedy": ...}}`, in
Python an [`ArrowQuantError`](api.md#errors) with these attributes. What the program does with many more odd inputs is
in [robustness.md](robustness.md).
"""


def observed(case: Case) -> tuple[str, str]:
    """The message of a case and its remedy; what was only printed has none."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            return _clean(str(case()), folder), ""
        except ArrowQuantError as error:
            remedy = error.remedy
            problem = error.problem
            if not remedy:  # its last sentences
                problem, _, remedy = problem.partition(". ")
            return _clean(f"{error.code}: {problem}", folder), _clean(remedy, folder)


def _clean(text: str, folder: str) -> str:
    return " ".join(text.replace(f"{folder}/", "").split()).replace("|", "\\|")


def row(case: Case) -> str:
    """A line of the table."""
    symptom, why, *own_remedy = (" ".join(part.split()) for part in (inspect.getdoc(case) or "").split("\n\n"))
    message, remedy = observed(case)
    return f"| {symptom} | `{message.replace('`', chr(39))}` | {why} | {remedy or own_remedy[0]} |\n"


def document() -> str:
    """The Markdown text."""
    text = INTRODUCTION
    for section, cases in SECTIONS.items():
        text += f"\n## {section}\n\n| what you see | message | why | what to do |\n|---|---|---|---|\n"
        text += "".join(row(case) for case in cases)
    return text


if __name__ == "__main__":
    sys.exit(write_or_check(DOCUMENT, document, __doc__))
