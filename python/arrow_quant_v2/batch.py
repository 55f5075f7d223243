"""Quantize many weights with one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from arrow_quant_v2.arrays import is_table, rows_of
from arrow_quant_v2.errors import ArrowQuantError, ConfigurationError
from arrow_quant_v2.layer import QuantizedLayer, quantize_layer


@dataclasses.dataclass(frozen=True)
class BatchResult:
    """What became of each weight, by name, in the order in which they were given."""

    layers: dict[str, QuantizedLayer]
    errors: dict[str, ArrowQuantError]


def quantize_batch(
    weights: Any,
    bit_width: int = 4,
    group_size: int = 128,
    fit: str = "min_max",
    *,
    num_threads: int = 0,
    continue_on_error: bool = False,
    progress_callback: Callable[[str, float], None] | None = None,
) -> BatchResult:
    """Nearest rounding of named weights; see quantize_layer.

    Args:
        weights: a dict or an iterable of (name, weight), each a numpy or Arrow array; or an Arrow table with the
            columns layer_name, weights and shape, as for quantize_arrow. float32 in C order is read where it lies.
        bit_width: 2, 3, 4 or 8.
        group_size: at least 1, or -1 for one group per output channel.
        fit: "min_max" or "fitted".
        num_threads: 0 for all.
        continue_on_error: collect the errors of single weights in the result instead of raising the first. A wrong
            argument is raised all the same.
        progress_callback: called as (name, fraction in [0, 1]) after each weight.

    Raises:
        ConfigurationError: a wrong argument, a name that occurs twice.
        QuantizationError: NaN or Inf in a weight, with its name.
        ShapeMismatchError: of a weight, with its name.
    """
    quantize_layer(
        np.zeros((1, 1), np.float32), None, bit_width, group_size, fit=fit
    )  # arguments are refused before any work
    named = _named_weights(weights)
    layers: dict[str, QuantizedLayer] = {}
    errors: dict[str, ArrowQuantError] = {}
    for index, (name, weight) in enumerate(named):
        try:
            layers[name] = quantize_layer(weight, None, bit_width, group_size, fit=fit, num_threads=num_threads)
        except ArrowQuantError as error:
            errors[name] = _with_name(error, name)
            if not continue_on_error:
                raise errors[name] from error
        if progress_callback is not None:
            progress_callback(name, (index + 1) / len(named))
    return BatchResult(layers, errors)


def _named_weights(weights: Any) -> list[tuple[str, Any]]:
    if is_table(weights):
        named = list(rows_of(weights))
    elif isinstance(weights, Mapping):
        named = list(weights.items())
    elif isinstance(weights, Iterable) and not isinstance(weights, str | np.ndarray):
        named = [_pair(item) for item in weights]
    else:
        raise ConfigurationError(
            f"weights is a {type(weights).__name__}. Give a dict, pairs of name and weight, a table."
        )
    seen: set[str] = set()
    for name, _ in named:
        if name in seen:
            raise ConfigurationError.compose("the name occurs twice", tensor=str(name), remedy="Give unique names.")
        seen.add(name)
    return named


def _pair(item: Any) -> tuple[str, Any]:
    if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], str):
        return item[0], item[1]
    raise ConfigurationError(f"weights has an item of type {type(item).__name__}. Give pairs of name and weight.")


def _with_name(error: ArrowQuantError, name: str) -> ArrowQuantError:
    """The error with the weight's name, which the core does not know."""
    if error.tensor:
        return error
    named = type(error)(f"tensor '{name}': {error.message}", code=error.code, tensor=name, remedy=error.remedy)
    return named
