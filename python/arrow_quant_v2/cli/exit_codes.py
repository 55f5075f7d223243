"""Exit codes of arrow-quant: 0 fine, 1 quality, 2 usage, 3 input."""

from __future__ import annotations

from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError

EXIT_QUALITY, EXIT_USAGE, EXIT_INPUT = 1, 2, 3


def exit_code_of(error: ArrowQuantError) -> int:
    """The code that a command ends with."""
    if error.code == "validation":
        return EXIT_QUALITY
    return EXIT_USAGE if isinstance(error, ConfigurationError) else EXIT_INPUT
