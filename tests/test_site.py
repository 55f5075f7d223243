"""tools/check_site.py: what a page would load from elsewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

LOADS = [
    '<script src="https://cdn.example/x.js"></script>',
    '<link rel="stylesheet" href="//fonts.example/x.css">',
    '<img src="http://example/x.png">',
    '<p style="background: url(https://example/x.png)">',
    "<style>@import 'https://fonts.example/x.css';</style>",
]


def check(folder) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "check_site.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("load", LOADS)
def test_a_load_from_elsewhere_is_found(tmp_path, load):
    (tmp_path / "index.html").write_text(load)
    done = check(tmp_path)
    assert done.returncode == 1
    assert "index.html: " in done.stdout


def test_links_and_own_files_are_fine(tmp_path):
    (tmp_path / "index.html").write_text('<a href="https://example">x</a><script src="a.js"></script>')
    assert check(tmp_path).returncode == 0


def test_a_folder_without_pages_is_no_site(tmp_path):
    assert check(tmp_path).returncode == 1
