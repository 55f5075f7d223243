"""Exceptions: each says what is wrong, where, and what to do."""

from __future__ import annotations


class ArrowQuantError(Exception):
    """Base of all errors of this package.

    Attributes: ``code`` (stable name of the kind), ``file``, ``tensor``, ``remedy`` (empty when not known).
    """

    def __init__(
        self, message: str, *, code: str = "error", file: str = "", tensor: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.file = file
        self.tensor = tensor
        self.remedy = remedy


class QuantizationError(ArrowQuantError):
    """A tensor cannot be quantized: NaN, Inf."""


class ConfigurationError(ArrowQuantError, ValueError):
    """A key, value or argument outside its documented range."""


class ValidationError(ArrowQuantError):
    """Quality below the threshold."""


class ModelNotFoundError(ArrowQuantError, FileNotFoundError):
    """No model at the path."""


class MetadataError(ArrowQuantError):
    """The model's modality or architecture cannot be told."""


class CorruptFileError(ArrowQuantError):
    """A file breaks its own format."""


class ShapeMismatchError(ArrowQuantError, ValueError):
    """Shapes that must agree do not."""


class UnsupportedModelError(ArrowQuantError):
    """A valid file or request that this program does not handle."""


class ResourceError(ArrowQuantError, OSError):
    """The operating system refused: disk, memory, permission."""


class CancelledError(ArrowQuantError):
    """The caller asked to stop."""


_CLASSES: dict[str, type[ArrowQuantError]] = {
    "invalid_argument": ConfigurationError,
    "configuration": ConfigurationError,
    "model_not_found": ModelNotFoundError,
    "metadata": MetadataError,
    "corrupt_file": CorruptFileError,
    "unsupported": UnsupportedModelError,
    "shape_mismatch": ShapeMismatchError,
    "quantization": QuantizationError,
    "validation": ValidationError,
    "io": ResourceError,
    "resource": ResourceError,
    "cancelled": CancelledError,
}


def from_core(code: str, message: str, file: str, tensor: str, remedy: str) -> ArrowQuantError:
    """The exception for an error of the C++ core; called by the bindings."""
    return _CLASSES.get(code, ArrowQuantError)(message, code=code, file=file, tensor=tensor, remedy=remedy)
