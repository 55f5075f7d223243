"""Packages that only some commands need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from arrow_quant_v2.errors import ConfigurationError


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Around imports that ``what`` needs: a missing package becomes a ConfigurationError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{what} needs {error.name}. Install it with: pip install 'arrow-quant-v2[{extra}]'"
        ) from error
