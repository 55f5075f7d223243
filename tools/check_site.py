"""Check that the pages of a built site load nothing from elsewhere: no scripts, styles, fonts or pictures.

Usage: check_site.py FOLDER. Links that a reader may follow are fine. Prints one line per finding and exits 1 when there
are any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_ELSEWHERE = re.compile(r"(https?:)?//")
_IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)")


class _Loads(HTMLParser):
    """Collects what a page loads, without what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        loaded = [values.get("src", ""), values.get("poster", ""), *_IN_STYLES.findall(values.get("style", ""))]
        if tag == "link":
            loaded.append(values.get("href", ""))
        self.found += [f"{tag} {target}" for target in loaded if _ELSEWHERE.match(target)]


def external_loads(path: Path) -> Iterator[str]:
    """Yield what a page or style sheet would load from elsewhere."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        page = _Loads()
        page.feed(text)
        yield from page.found
    yield from _IN_STYLES.findall(text)


def main(arguments: list[str]) -> int:
    """Check every page and style sheet of the folder."""
    if len(arguments) != 1:
        print(__doc__)
        return 2
    root = Path(arguments[0])
    pages = sorted(path for path in root.rglob("*") if path.suffix in (".html", ".css"))
    findings = [f"{page.relative_to(root)}: {load}" for page in pages for load in external_loads(page)]
    print("\n".join([*findings, f"check_site: {len(pages)} files, {len(findings)} load(s) from elsewhere"]))
    return 1 if findings or not pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
