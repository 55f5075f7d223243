"""Progress callbacks: parts of a run, and callbacks whose errors never end it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from arrow_quant_v2.errors import CancelledError

ProgressCallback = Callable[[str, float], None]
StopQuestion = Callable[[], bool]

_log = logging.getLogger("arrow_quant_v2")


def part_of(
    callback: ProgressCallback | None, begin: float, end: float, should_stop: StopQuestion | None
) -> ProgressCallback | None:
    """A callback for a part of the run, which asks whether to stop too."""
    if callback is None and should_stop is None:
        return None

    def call(message: str, fraction: float) -> None:
        if should_stop is not None and should_stop():
            raise CancelledError("stopped on request")
        if callback is not None:
            callback(message, begin + (end - begin) * fraction)

    return call


def guarded(callback: ProgressCallback | None) -> ProgressCallback | None:
    """A callback whose errors are logged once and never end a run."""
    if callback is None:
        return None
    failed = False

    def call(message: str, fraction: float) -> None:
        nonlocal failed
        try:
            callback(message, fraction)
        except Exception:
            if not failed:
                _log.exception("the progress callback failed; the run goes on")
            failed = True

    return call
