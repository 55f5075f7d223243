"""Snippets of Markdown documents: found by their fences, run in order in one directory."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

MARK = re.compile(r"<!-- not run: (.+?) -->")
FENCE = re.compile(r"^```(\w*)(.*)$")
# Quoted from a source that tools/check_docs.py compares, or no program.
NOT_RUN = {"cpp", "cmake", "text"}


@dataclasses.dataclass(frozen=True)
class Snippet:
    """``text`` of a fence of ``language``; ``not_run`` is the reason of a fence marked so. ``line`` is the fence's."""

    language: str
    text: str
    line: int
    attributes: str = ""
    not_run: str | None = None


def snippets(text: str) -> Iterator[Snippet]:
    """The fences of a document, each with the mark in the line before it."""
    lines = text.splitlines()
    begin: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if begin is None:
            begin = number
            continue
        language, attributes = FENCE.match(lines[begin]).groups()
        mark = MARK.fullmatch(lines[begin - 1]) if begin else None
        body = "\n".join(lines[begin + 1 : number]) + "\n"
        yield Snippet(language, body, begin + 1, attributes.strip(), mark.group(1) if mark else None)
        begin = None


def indented_code(text: str) -> Iterator[int]:
    """Lines of code blocks that are made by indentation, which no test would see."""
    inside, before = False, ""
    for number, line in enumerate(text.splitlines(), 1):
        inside ^= line.startswith("```")
        if not inside and line.startswith("    ") and not before.strip():
            yield number
        before = line


class Runner:
    """Runs the snippets of one page in the current directory; names of Python snippets stay for the next."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, snippet: Snippet, page: str) -> None:
        """Raises what the snippet raises, AssertionError for a command that fails."""
        if snippet.language == "python":
            code = "\n" * snippet.line + snippet.text  # so that errors tell the page's line
            exec(compile(code, page, "exec"), self._names)
        elif snippet.language == "yaml":
            pathlib.Path("config.yaml").write_text(snippet.text, encoding="utf-8")
        elif snippet.language == "sh":
            for command in snippet.text.replace("\\\n", " ").splitlines():
                _run_command(command)


def _run_command(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[:1] != ["arrow-quant"]:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)
        return
    target = words[words.index(">") + 1] if ">" in words else None
    arguments = words[1 : words.index(">")] if target else words[1:]
    code, output = _arrow_quant(arguments)
    assert code == 0, f"exit code {code} of {command}\n{output}"
    if target:
        pathlib.Path(target).write_text(output, encoding="utf-8")


def _arrow_quant(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of the command line, in this process: importing PyTorch anew would take most of the time."""
    from arrow_quant_v2.cli.main import main

    output, before = io.StringIO(), sys.argv
    sys.argv = ["arrow-quant", *arguments]
    try:
        with contextlib.redirect_stdout(output):
            main()
    except SystemExit as end:
        return int(end.code or 0), output.getvalue()
    finally:
        sys.argv = before
    return 0, output.getvalue()
