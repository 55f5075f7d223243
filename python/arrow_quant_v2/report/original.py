"""Compare a quantized model with the one that it was made from."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.validate import validate

Facts = dict[str, Any]

# The cosine of a layer's weights is measured as the run measured it; a model that was quantized twice has a little less
# against its first source, another model about 0.
_COSINE_SLACK = 0.2
_REMEDY = "Give the model that it was made from."


def compare(
    original: pathlib.Path,
    quantized: pathlib.Path,
    layers: list[Facts],
    should_stop: Callable[[], bool] | None = None,
) -> Facts:
    """Figures of validate(), which are put into ``layers`` too.

    Raises:
        ConfigurationError: another model. ShapeMismatchError: of one of its tensors. ModelNotFoundError,
        CorruptFileError, CancelledError.
    """
    figures = validate(os.fspath(original), os.fspath(quantized), should_stop=should_stop)
    _refuse(figures["extra"], "lacks", original)
    _refuse(figures["changed"], "has other values of", original)
    measured = {(row["component"], row["name"]): row for row in figures["layers"]}
    far = []
    for layer in layers:
        row = measured[layer["component"], layer["name"]]
        if layer["cosine"] is not None and row["cosine"] < layer["cosine"] - _COSINE_SLACK:
            far.append(layer["name"])
        layer["cosine"], layer["sqnr_db"] = row["cosine"], row["sqnr_db"]
    _refuse(far, "has other values of", original)
    return figures


def _refuse(names: list[str], relation: str, original: pathlib.Path) -> None:
    if names:
        raise ConfigurationError.compose(
            f"is not the original: it {relation} {len(names)} tensors of the quantized model, '{names[0]}' first",
            file=str(original),
            remedy=_REMEDY,
        )
