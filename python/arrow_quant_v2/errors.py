"""Exceptions of ArrowQuant: what is wrong, where, and what to do.

Every exception derives from :class:`ArrowQuantError`; most also derive from the built-in exception that a Python
programmer would expect. The C++ core's errors arrive as the same classes.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class ArrowQuantError(Exception):
    """Base of all errors of this package.

    Args:
        message: What is wrong with which value; no full stop at the end.
        code: Stable name of the kind of error, for example ``"corrupt_file"``; the class's own when left out.
        file: The file concerned, or ``""``.
        tensor: The tensor concerned, or ``""``.
        remedy: A full sentence that says what to do, or ``""``.

    Attributes:
        message, code, file, tensor, remedy: As given.
        exit_code: Exit code of the command line: 1 quality failed, 2 usage, 3 bad input or a failed run.

    ``str()`` gives ``file: tensor 'name': message. Remedy.``
    """

    default_code: ClassVar[str] = "unknown"
    exit_code: ClassVar[int] = 3

    def __init__(
        self, message: str = "", *, code: str | None = None, file: str = "", tensor: str = "", remedy: str = ""
    ) -> None:
        self.message = message
        self.code = self.default_code if code is None else code
        self.file = file
        self.tensor = tensor
        self.remedy = remedy
        where = f"{file}: " if file else ""
        if tensor:
            where += f"tensor '{tensor}': "
        super().__init__(where + message + (f". {remedy}" if remedy else ""))


class QuantizationError(ArrowQuantError):
    """A tensor cannot be quantized as asked, for example because it holds NaN or infinity."""

    default_code = "quantization"


class ConfigurationError(ArrowQuantError, ValueError):
    """A configuration key or value is wrong; names the key, the value and what is allowed."""

    default_code = "configuration"
    exit_code = 2


class InvalidArgumentError(ArrowQuantError, ValueError):
    """An argument is outside its documented range."""

    default_code = "invalid_argument"
    exit_code = 2


class ValidationError(ArrowQuantError):
    """The quality of a quantized model or layer is below the threshold."""

    default_code = "validation"
    exit_code = 1


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


class ResourceError(ArrowQuantError):
    """Not enough memory or disk space for what was asked."""

    default_code = "resource"


class FileAccessError(ArrowQuantError, OSError):
    """The operating system refused to read or write a file."""

    default_code = "io"


class CancelledError(ArrowQuantError):
    """The caller asked to stop; nothing half-written is left."""

    default_code = "cancelled"


ERROR_CLASSES: dict[str, type[ArrowQuantError]] = {
    cls.default_code: cls
    for cls in (
        QuantizationError,
        ConfigurationError,
        InvalidArgumentError,
        ValidationError,
        ModelNotFoundError,
        MetadataError,
        CorruptFileError,
        ShapeMismatchError,
        UnsupportedModelError,
        ResourceError,
        FileAccessError,
        CancelledError,
    )
}


def from_core(code: str, message: str, file: str = "", tensor: str = "", remedy: str = "") -> ArrowQuantError:
    """Make the exception for an error of the C++ core.

    Args:
        code: Name of the core's error code, as ``ErrorCodeName`` gives it. An unknown one gives the base class.
        message: What is wrong.
        file: The file concerned, or ``""``.
        tensor: The tensor concerned, or ``""``.
        remedy: What to do, a full sentence, or ``""``.
    """
    cls = ERROR_CLASSES.get(code, ArrowQuantError)
    return cls(message, code=code, file=file, tensor=tensor, remedy=remedy)
