"""Temporary directories that a killed process does not leave for ever."""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_directory(parent: pathlib.Path, prefix: str) -> Iterator[pathlib.Path]:
    """A new directory in ``parent`` whose name begins with ``prefix``, for the time of the context.

    It is locked while its process lives; directories of that prefix that nobody has locked are removed first.
    """
    for left in parent.glob(f"{prefix}*"):
        _remove_abandoned(left)
    path, lock = _locked(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(parent: pathlib.Path, prefix: str) -> tuple[pathlib.Path, int]:
    while True:
        path = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)  # another process took it for abandoned before it was locked


def _remove_abandoned(path: pathlib.Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # no directory, or gone already
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # in use
    finally:
        os.close(lock)
