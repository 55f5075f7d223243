"""Hooks of mkdocs.yml: bring pages from outside docs/ into the site and keep the documents' links valid there.

README.md becomes the first page, CONTRIBUTING.md and bench/results/*.md pages of their own, so that tables of figures
are what the scripts wrote. A source file that a page links to becomes a page that shows it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
_LANGUAGES = {".py": "python", ".h": "cpp", ".cc": "cpp", ".txt": "text", ".toml": "toml", ".yml": "yaml", ".sh": "sh"}


def site_path(path: str) -> str:
    """Where a file of the repository is in the site; paths have "/"."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in ("README.md", "CONTRIBUTING.md"):
        return {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}[path]
    if path.startswith("bench/results/"):
        return path.removeprefix("bench/")
    return f"source/{path}.md"


def pages() -> list[str]:
    """The Markdown documents of the site, as paths in the repository."""
    found = ["README.md", "CONTRIBUTING.md"]
    for folder in ("docs", "bench/results"):
        found += sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.md"))
    return found


def links(page: str, text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each relative link of a page outside of fences, with the path in the repository that it leads to."""
    fences = [match.span() for match in _FENCE.finditer(text)]
    for match in _LINK.finditer(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", match.group()) or any(a <= match.start() < b for a, b in fences):
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(match.group())))
        if (ROOT / target).is_file():
            yield match, target


def with_site_links(page: str, text: str) -> str:
    """A page's text with the links that lead to other places in the site than in the repository."""
    here = posixpath.dirname(site_path(page))
    for match, target in reversed(list(links(page, text))):
        there = os.path.relpath(site_path(target), here or ".").replace(os.sep, "/")
        text = text[: match.start()] + there + text[match.end() :]
    return text


def source_page(path: str) -> str:
    """A page that shows a source file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"# {path}\n\n~~~~~{_LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n~~~~~\n"


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/."""
    sources: set[str] = set()
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        if not page.startswith("docs/"):
            files.append(File.generated(config, site_path(page), content=with_titles(page, text)))
        sources.update(t for _, t in links(page, text) if site_path(t).startswith("source/"))
    for path in sorted(sources):
        files.append(File.generated(config, site_path(path), content=source_page(path)))
    return files


def with_titles(page: str, text: str) -> str:
    """Results without a heading of their own get the file's name."""
    if re.search(r"^# ", text, re.MULTILINE):
        return text
    return f"# {Path(page).stem.replace('_', ' ').capitalize()}\n\n{text}"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to where their targets are in the site."""
    by_site_path = {site_path(path): path for path in pages()}
    path = by_site_path.get(page.file.src_uri)
    return markdown if path is None else with_site_links(path, markdown)
