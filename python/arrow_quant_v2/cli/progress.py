"""Progress on a terminal as a bar, elsewhere as plain lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_reporter(quiet: bool = False, title: str = "quantizing") -> Iterator[Callable[[str, float], None] | None]:
    """A callback (message, fraction in [0, 1]) for the time of the context; None when quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        from rich.console import Console

        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=1.0)

            def show(message: str, fraction: float) -> None:
                bar.update(task, completed=fraction, description=f"{title} {message[-48:]}")

            yield show
    else:
        yield _plain(title)


def _plain(title: str) -> Callable[[str, float], None]:
    """A line at each tenth."""
    last = -1

    def show(message: str, fraction: float) -> None:
        nonlocal last
        tenth = int(fraction * 10)
        if tenth > last:
            last = tenth
            print(f"{title}: {tenth * 10:3d} % {message}", file=sys.stderr, flush=True)

    return show
