"""C++ core of ArrowQuant V2."""

from typing import Annotated

import numpy
from numpy.typing import NDArray

arrow_version: str = "26.0.1"

def active_isa() -> str:
    """Name of the instruction set in use."""

def quantize_model(input: str, output: str, options_json: str, callback: object | None) -> str:
    """Quantize a model; returns the result as JSON text."""

def plan_model(input: str, options_json: str) -> str:
    """What quantize_model would do, from headers only, as JSON text."""

def source_tensors(path: str) -> str:
    """Where each tensor of a source model lies, as a JSON list."""

def quantize_array(
    weight: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C", device="cpu", writable=False)],
    bits: int,
    group_size: int,
    fitted: bool = False,
    threads: int = 0,
) -> tuple:
    """
    Nearest rounding of float32 weight [rows, cols]: (packed codes, scales, zero_points, group_size).
    """

def dequantize_array(
    codes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)],
    rows: int,
    cols: int,
    bits: int,
    group_size: int,
    scales: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    zero_points: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)],
) -> object:
    """Packed codes of an affine grid to float32 [rows, cols]."""
