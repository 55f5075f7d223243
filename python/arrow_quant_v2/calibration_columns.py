"""What a cell of calibration data holds: a picture, a sound, an array, tokens."""

from __future__ import annotations

import importlib
import io
import math
import pathlib
import wave
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2.calibration_data import BadRowError, Row
from arrow_quant_v2.errors import ConfigurationError

COLUMNS = ("text", "input_ids", "image", "audio", "latent", "data", "timestep", "shape", "label")

FloatArray = npt.NDArray[np.float32]


def column_names(options: Iterable[str]) -> dict[str, str]:
    """``["image=jpg", "label=class"]`` as {"image": "jpg", "label": "class"}; a name alone gets the key ""."""
    found = {}
    for option in options:
        column, _, name = option.rpartition("=")
        if not name:
            raise ConfigurationError(f"column is '{option}'. Give NAME or COLUMN=NAME.")
        found[column] = name
    return found


def checked_columns(names: Mapping[str, str] | str | None, default: str) -> dict[str, str]:
    """Names in the data by our column; one that is given alone, or with the key "", is that of ``default``."""
    given = {"": names} if isinstance(names, str) else names or {}
    unknown = [column for column in given if column and column not in COLUMNS]
    if unknown:
        raise ConfigurationError(f"there is no column {', '.join(unknown)}. Use {', '.join(COLUMNS)}.")
    return {column or default: name for column, name in given.items()}


def cell(row: Row, column: str, names: Mapping[str, str]) -> Any:
    """The row's value of a column, whose name in the data is ``names[column]`` or the same; None where it has none.

    Raises BadRowError when a column that was named is not there.
    """
    value = row.values.get(names.get(column, column))
    if value is None and column in names:
        raise BadRowError(f"there is no column '{names[column]}', or it is empty")
    return value


def image_of(value: Any, folder: pathlib.Path) -> Any:
    """A PIL image of a path, of encoded bytes, of {"bytes", "path"}, or of a PIL image."""
    pillow = _pillow()
    if isinstance(value, pillow.Image):
        return value
    try:
        image = pillow.open(io.BytesIO(_encoded(value, folder)))
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, pillow.DecompressionBombError) as error:
        raise BadRowError(f"no image: {error}") from error
    return image


def audio_of(value: Any, folder: pathlib.Path) -> tuple[FloatArray, int]:
    """Samples, float32 [channels, frames] in [-1, 1], and the sampling rate in Hz.

    ``value``: path or bytes of a PCM WAV file, {"bytes", "path"}, or {"array", "sampling_rate"}.
    """
    if isinstance(value, Mapping) and value.get("array") is not None:
        samples = array_of(value["array"], None)
        return (samples[None] if samples.ndim == 1 else samples), int(value.get("sampling_rate") or 0)
    try:
        with wave.open(io.BytesIO(_encoded(value, folder))) as file:
            frames = file.readframes(file.getnframes())
            samples = _pcm(frames, file.getsampwidth())
            return np.ascontiguousarray(samples.reshape(-1, file.getnchannels()).T), file.getframerate()
    except (wave.Error, EOFError, ValueError, OSError) as error:
        raise BadRowError(f"no PCM WAV: {error}") from error


def array_of(value: Any, shape: Any) -> FloatArray:
    """A float32 array of nested lists, in ``shape`` where that is given; NaN and infinity are refused."""
    try:
        array = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        try:  # rows of Arrow are lists of arrays
            array = np.asarray(np.asarray(value).tolist(), dtype=np.float32)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadRowError(f"no array of numbers: {error}") from error
    if array.ndim == 0 or array.size == 0:
        raise BadRowError("an empty array")
    if not np.isfinite(array).all():
        raise BadRowError("the array holds NaN or infinity")
    if shape is None:
        return array
    sizes = [whole_number(size, "shape") for size in shape]
    if math.prod(sizes) != array.size or min(sizes, default=0) < 1:
        raise BadRowError(f"{array.size} values do not fill shape {sizes}")
    return array.reshape(sizes)


def tokens_of(value: Any, vocab_size: int) -> npt.NDArray[np.int64]:
    """Token ids, int64 [length], all in [0, vocab_size)."""
    try:
        ids = np.asarray(value)
    except ValueError as error:
        raise BadRowError(f"input_ids: {error}") from error
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise BadRowError("input_ids is no list of whole numbers")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise BadRowError(f"input_ids has {ids.min()}..{ids.max()}; the model has tokens 0..{vocab_size - 1}")
    return ids.astype(np.int64)


def whole_number(value: Any, column: str) -> int:
    """An integer cell; also one that is stored as a float."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value != int(value):
        raise BadRowError(f"{column} is {value!r}, not a whole number")
    return int(value)


def _encoded(value: Any, folder: pathlib.Path) -> bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        raise BadRowError(f"a {type(value).__name__} where a path or bytes are expected")
    try:
        return (folder / value).read_bytes()
    except (OSError, ValueError) as error:
        raise BadRowError(f"the file cannot be read: {error}") from error


def _pcm(frames: bytes, width: int) -> FloatArray:
    """Samples of 8-bit unsigned or 16, 24, 32-bit signed little-endian PCM."""
    if width == 1:
        return (np.frombuffer(frames, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width == 3:  # widened by a low byte of zero
        padded = np.zeros((len(frames) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(frames, np.uint8).reshape(-1, 3)
        frames, width = padded.tobytes(), 4
    scale = float(1 << (8 * width - 1))
    return np.frombuffer(frames, f"<i{width}").astype(np.float32) / np.float32(scale)


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise ConfigurationError("images need pillow. Install it with: pip install pillow") from error
