"""Exceptions of ArrowQuant: what is wrong, where, and what to do.

Every exception derives from :class:`ArrowQuantError`; most also derive from the built-in exception that a Python
programmer would expect. The C++ core's errors arrive as the same classes.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Self


class ArrowQuantError(Exception):
    """Base of all errors of this package.

    Args:
        message: Where it is wrong, what is wrong, and what to do, as full sentences.
        code: Stable name of the kind of error, for example ``"corrupt_file"``; the class's own when left out.
        file: The file concerned, or ``""``.
        tensor: The tensor concerned, or ``""``.
        remedy: What to do, which the message says too, or ``""``.

    The attributes have the same names.
    """

    default_code: ClassVar[str] = "unknown"

    def __init__(
        self, message: str = "", *, code: str | None = None, file: str = "", tensor: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.file = file
        self.tensor = tensor
        self.remedy = remedy

    @property
    def problem(self) -> str:
        """The message without the remedy."""
        return self.message.removesuffix(f". {self.remedy}") if self.remedy else self.message

    def as_dict(self) -> dict[str, str]:
        """code, message, file, tensor and remedy, for JSON."""
        return {name: getattr(self, name) for name in ("code", "message", "file", "tensor", "remedy")}

    @classmethod
    def compose(cls, problem: str, *, file: str = "", tensor: str = "", remedy: str = "") -> Self:
        """Make an error whose message is ``file: tensor 'name': problem. Remedy.``, as the core writes it."""
        message = f"{file}: " if file else ""
        message += f"tensor '{tensor}': " if tensor else ""
        message += problem + (f". {remedy}" if remedy else "")
        return cls(message, file=file, tensor=tensor, remedy=remedy)


class QuantizationError(ArrowQuantError):
    """A tensor cannot be quantized as asked, for example because it holds NaN or infinity."""

    default_code = "quantization"


class ConfigurationError(ArrowQuantError, ValueError):
    """A configuration key, a value or an argument is wrong; names it, the value and what is allowed."""

    default_code = "configuration"


class ValidationError(ArrowQuantError):
    """The quality of a quantized model or layer is below the threshold."""

    default_code = "validation"


class ModelNotFoundError(ArrowQuantError, FileNotFoundError):
    """There is no model at the path."""

    default_code = "model_not_found"

    def __init__(
        self, message: str = "", *, code: str | None = None, file: str = "", tensor: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message, code=code, file=file, tensor=tensor, remedy=remedy)
        self.errno = errno.ENOENT


class MetadataError(ArrowQuantError):
    """The model's modality or architecture cannot be told from its files."""

    default_code = "metadata"


class CorruptFileError(ArrowQuantError):
    """A file breaks the rules of its own format."""

    default_code = "corrupt_file"


class ShapeMismatchError(ArrowQuantError, ValueError):
    """Shapes that must agree do not."""

    default_code = "shape_mismatch"


class UnsupportedModelError(ArrowQuantError):
    """A valid file or request that this program does not handle."""

    default_code = "unsupported"


class ResourceError(ArrowQuantError, OSError):
    """The operating system refused: disk, memory, permission."""

    default_code = "resource"


class CancelledError(ArrowQuantError):
    """The caller asked to stop; nothing is under the name of the output."""

    default_code = "cancelled"


ERROR_CLASSES: dict[str, type[ArrowQuantError]] = {
    "quantization": QuantizationError,
    "configuration": ConfigurationError,
    "invalid_argument": ConfigurationError,
    "validation": ValidationError,
    "model_not_found": ModelNotFoundError,
    "metadata": MetadataError,
    "corrupt_file": CorruptFileError,
    "shape_mismatch": ShapeMismatchError,
    "unsupported": UnsupportedModelError,
    "resource": ResourceError,
    "io": ResourceError,
    "cancelled": CancelledError,
}


def from_core(code: str, message: str, file: str = "", tensor: str = "", remedy: str = "") -> ArrowQuantError:
    """Make the exception for an error of the C++ core; the bindings call it.

    Args:
        code: Name of the core's error code, as ``ErrorCodeName`` gives it. An unknown one gives the base class.
        message: The whole message: where, what, and what to do.
        file: The file concerned, or ``""``.
        tensor: The tensor concerned, or ``""``.
        remedy: What to do, a full sentence, or ``""``.
    """
    cls = ERROR_CLASSES.get(code, ArrowQuantError)
    return cls(message, code=code, file=file, tensor=tensor, remedy=remedy)
