"""Run clang-tidy over the files of the dev preset's compile commands.

Arrow's headers take clang-tidy the better part of a minute per file, so files that reach them, and tests (GoogleTest's
macros), are left out unless --all is given.

Usage: run_clang_tidy.py [--all] [--jobs N] [--build DIR]. Exits 1 when any file has a finding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check_layers import ARROW_HEADER, read_includes

ROOT = Path(__file__).resolve().parent.parent


def reaches_arrow(source: Path) -> bool:
    """Whether a file includes Arrow or Parquet, directly or through the project's headers."""
    pending, seen = [source], {source}
    while pending:
        for include in read_includes(pending.pop()):
            if ARROW_HEADER.match(include.header):
                return True
            header = ROOT / "cpp" / include.header
            if header.exists() and header not in seen:
                seen.add(header)
                pending.append(header)
    return False


def select_files(build: Path, *, every: bool) -> list[Path]:
    """Project sources of a compile_commands.json, without the slow ones unless `every`."""
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    files = sorted({Path(command["file"]).resolve() for command in commands})
    own = [path for path in files if path.is_relative_to(ROOT / "cpp") or path.is_relative_to(ROOT / "bindings")]
    if every:
        return own
    return [path for path in own if not path.stem.endswith("_test") and not reaches_arrow(path)]


def run_clang_tidy(path: Path, build: Path) -> tuple[Path, str, float]:
    """Return the file, clang-tidy's findings ("" when clean) and the seconds taken."""
    start = time.monotonic()
    # The compiler's own warning flags are g++'s; clang-tidy would only complain that it does not know them.
    command = [str(Path(sys.executable).parent / "clang-tidy"), "--quiet", "-p", str(build)]
    command += ["--extra-arg=-Wno-unknown-warning-option", "--extra-arg=-Wno-unused-command-line-argument", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    findings = "" if done.returncode == 0 else done.stdout + done.stderr
    return path, findings, time.monotonic() - start


def main() -> int:
    """Run over the selected files and print findings, the slowest file and the total."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every file, Arrow's users and tests too")
    parser.add_argument("--jobs", type=int, default=2, help="files at a time")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "dev", help="folder of compile_commands.json")
    options = parser.parse_args()
    files = select_files(options.build, every=options.all)
    failed = 0
    slowest = (0.0, "-")
    with ThreadPoolExecutor(options.jobs) as pool:
        for path, findings, seconds in pool.map(lambda file: run_clang_tidy(file, options.build), files):
            slowest = max(slowest, (seconds, str(path.relative_to(ROOT))))
            if findings:
                failed += 1
                print(findings)
    print(f"clang-tidy: {len(files)} file(s), {failed} with findings; slowest {slowest[1]} {slowest[0]:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
