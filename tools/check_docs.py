"""Check that every relative link and picture of the Markdown documents leads to a file of the tree, and that every
snippet that names its source ("```cpp source=examples/cpp/quantize.cc") is found there as it stands.

Usage: check_docs.py [ROOT]. Prints one line per dead link or stale snippet and exits 1 when there are any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

SKIPPED_FOLDERS = frozenset({".venv", ".git", "build", "dist", "demo", "node_modules"})

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
_SNIPPET = re.compile(r"^```\w* source=(\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|<img[^>]*\ssrc=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+\s+(.*?)\s*#*$", re.MULTILINE)


def documents(root: Path) -> Iterator[Path]:
    """Yield the Markdown files of the tree, without those of environments and build folders."""
    for path in sorted(root.rglob("*.md")):
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            yield path


def anchors(text: str) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(_FENCE.sub("", text)))
    return {heading.replace(" ", "-") for heading in plain}


def dead_links(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, target) of each relative link of a document whose file or heading does not exist."""
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())  # noqa: E731
    text = _CODE.sub(blank, _FENCE.sub(blank, path.read_text(encoding="utf-8")))
    for match in _LINK.finditer(text):
        target = match.group(1) or match.group(2)
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = path.parent / name if name else path
        is_dead = not file.exists()
        if not is_dead and anchor and file.suffix == ".md":
            is_dead = anchor not in anchors(file.read_text(encoding="utf-8"))
        if is_dead:
            yield text.count("\n", 0, match.start()) + 1, target


def stale_snippets(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, source) of each snippet of a document that its source does not contain."""
    text = path.read_text(encoding="utf-8")
    for match in _SNIPPET.finditer(text):
        source = root / match.group(1)
        if not source.is_file() or match.group(2) not in source.read_text(encoding="utf-8"):
            yield text.count("\n", 0, match.start()) + 1, match.group(1)


def main(arguments: list[str]) -> int:
    """Print the dead links and stale snippets under the root given, or under this repository."""
    root = Path(arguments[0]).resolve() if arguments else Path(__file__).resolve().parent.parent
    failures = 0
    for path in documents(root):
        for line, target in dead_links(path):
            print(f"{path.relative_to(root)}:{line}: dead link {target}")
            failures += 1
        for line, source in stale_snippets(path, root):
            print(f"{path.relative_to(root)}:{line}: the snippet is not in {source}")
            failures += 1
    print(f"check_docs: {failures} dead link(s) or stale snippet(s)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
