"""Compare a quantized model with its source, from the files alone."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import CancelledError, ConfigurationError, ShapeMismatchError
from arrow_quant_v2.model_file import QuantizedModel, StoredTensor
from arrow_quant_v2.parquet_input import ParquetSource, open_parquet_input
from arrow_quant_v2.safetensors_source import SafetensorsSource, SourceTensor


def validate(
    original: str,
    quantized: str,
    min_accuracy: float | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Weight cosine and SQNR of every quantized tensor, and whether kept tensors are unchanged.

    Returns:
        passed, cosine_similarity and sqnr_db over all quantized weights, min_cosine and worst_layer, layers (name,
        component, bits, cosine, sqnr_db), changed (kept tensors whose bytes differ), missing and extra (names),
        bits_per_weight, compression_ratio. ``passed`` needs nothing changed, missing or extra and, with
        ``min_accuracy``, every layer's cosine at or above it.

    Raises:
        ShapeMismatchError: of a tensor, between the two models. ConfigurationError: ``min_accuracy`` is not in [0, 1].
        ModelNotFoundError, CorruptFileError. CancelledError: ``should_stop`` was true between two tensors.
    """
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise ConfigurationError(f"min_accuracy is {min_accuracy}. Use a cosine from 0 to 1.")
    parquet = open_parquet_input(pathlib.Path(original))
    source = SafetensorsSource(pathlib.Path(original)) if parquet is None else ParquetSource(parquet)
    model = QuantizedModel(quantized)
    names = source.names()
    layers: list[dict[str, Any]] = []
    changed: list[str] = []
    extra: list[str] = []
    total = np.zeros(4)
    count = 0
    for tensor in model:
        if should_stop is not None and should_stop():
            raise CancelledError("stopped on request")
        key = (tensor.component, tensor.name)
        if key not in names:
            extra.append(tensor.name)
            continue
        names.discard(key)
        count += math.prod(tensor.shape)
        original_tensor = source.read(key)
        if original_tensor.shape != tensor.shape:
            raise ShapeMismatchError.compose(
                f"the shape {list(tensor.shape)} was {list(original_tensor.shape)} in {original}",
                file=quantized,
                tensor=tensor.name,
                remedy="Give the model that it was made from.",
            )
        if not tensor.quantized:
            if original_tensor.kept_bytes() != tensor.data.tobytes():
                changed.append(tensor.name)
            continue
        sums = _sums(original_tensor, tensor)
        total += sums
        layers.append({
            "name": tensor.name, "component": tensor.component, "bits": tensor.bits, "cosine": _cosine(sums),
            "sqnr_db": _sqnr_db(sums),
        })  # fmt: skip
    worst = min(layers, key=lambda layer: float(layer["cosine"]), default=None)
    low = [layer["name"] for layer in layers if min_accuracy is not None and layer["cosine"] < min_accuracy]
    return {
        "passed": not (changed or names or extra or low),
        "cosine_similarity": _cosine(total),
        "sqnr_db": _sqnr_db(total),
        "min_cosine": worst["cosine"] if worst else 1.0,
        "worst_layer": worst["name"] if worst else None,
        "below_min_accuracy": low,
        "layers": layers,
        "changed": changed,
        "missing": sorted(name for _, name in names),
        "extra": extra,
        "bits_per_weight": 8 * model.parquet_bytes / max(1, count),
        "compression_ratio": source.total_bytes / model.parquet_bytes,
    }


def _sums(original: SourceTensor, tensor: StoredTensor) -> npt.NDArray[np.float64]:
    return np.array(core.error_sums(original.to_float32().ravel(), tensor.dequantize().ravel()))


def _cosine(sums: npt.NDArray[np.float64]) -> float:
    if sums[3] == 0:
        return 1.0
    norm = math.sqrt(sums[0]) * math.sqrt(sums[2])
    return float(sums[1] / norm) if norm > 0 else 0.0


def _sqnr_db(sums: npt.NDArray[np.float64]) -> float:
    if sums[3] == 0:
        return 200.0
    return float(min(200.0, 10 * math.log10(sums[0] / sums[3]))) if sums[0] > 0 else 0.0
