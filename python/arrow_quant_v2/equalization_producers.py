"""The modules that can take the equalization of the layers behind them, for the record of a quantized file."""

from __future__ import annotations

import logging
import os
import pathlib
from typing import Any

from arrow_quant_v2.calibration import missing_packages, quantized_layers
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ArrowQuantError

# By component and weight tensor.
Producers = dict[str, dict[str, str]]

_log = logging.getLogger("arrow_quant_v2")


def equalization_producers(model_path: str | os.PathLike[str], config: DiffusionQuantConfig) -> Producers:
    """Names of the modules that make the inputs of the model's layers and can be scaled with them.

    Empty without torch, and for components that neither library can build; their layers multiply their inputs at run
    time.
    """
    if missing_packages():
        return {}
    components = {component for component, _ in quantized_layers(model_path, config)}
    root = pathlib.Path(model_path)
    found = {component: _of_component(root / component) for component in sorted(components)}
    return {component: producers for component, producers in found.items() if producers}


def _of_component(root: pathlib.Path) -> dict[str, str]:
    import torch

    from arrow_quant_v2.torch.folding import foldable
    from arrow_quant_v2.torch.load import build_model

    try:
        with torch.device("meta"):  # its graph matters, not its weights
            model: Any = build_model(root)
    except (ArrowQuantError, OSError, ValueError, TypeError, RuntimeError, NotImplementedError, ImportError) as error:
        _log.debug("%s: cannot be built, so no equalization is folded: %s", root, error)
        return {}
    return {f"{consumer}.weight": producer for consumer, producer in foldable(model).items()}
