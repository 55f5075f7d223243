"""What a model's modules tell and its tensors do not: which layers are transposed convolutions, and which module makes
the input of which layer."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import re
from typing import Any

from arrow_quant_v2.calibration import missing_packages, quantized_layers
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ArrowQuantError

_log = logging.getLogger("arrow_quant_v2")


@dataclasses.dataclass(frozen=True)
class GraphFacts:
    """``producers``: names of the modules that make the inputs of layers and can be scaled with them, by component and
    weight tensor. ``transposed``: names of weights with output channels on the second axis, by component."""

    producers: dict[str, dict[str, str]]
    transposed: dict[str, list[str]]

    def options(self, config: DiffusionQuantConfig) -> dict[str, Any]:
        """For the core."""
        found: dict[str, Any] = {}
        if config.strategy_spatial != "never":
            found["equalization_producers"] = self.producers
        names = self.transposed.get("", [])  # a pattern knows no component
        if names:
            patterns = [f"^{re.escape(name)}$" for name in names]
            found["transposed_patterns"] = [*config.transposed_patterns, *patterns]
        return found


def graph_facts(model_path: str | os.PathLike[str], config: DiffusionQuantConfig) -> GraphFacts:
    """Facts of every component that diffusers or transformers can build; none without torch."""
    if missing_packages():
        return GraphFacts({}, {})
    root = pathlib.Path(model_path)
    components = sorted({component for component, _ in quantized_layers(model_path, config)})
    models = {component: _without_weights(root / component) for component in components}
    built = {component: model for component, model in models.items() if model is not None}
    return GraphFacts(
        {component: _producers(model) for component, model in built.items()},
        {component: _transposed(model) for component, model in built.items()},
    )


def _without_weights(root: pathlib.Path) -> Any:
    import torch

    from arrow_quant_v2.torch.load import build_model

    try:
        with torch.device("meta"):
            return build_model(root)
    except (ArrowQuantError, OSError, ValueError, TypeError, RuntimeError, NotImplementedError, ImportError) as error:
        _log.debug("%s: cannot be built, so its modules are not known: %s", root, error)
        return None


def _producers(model: Any) -> dict[str, str]:
    from arrow_quant_v2.torch.folding import foldable

    return {f"{consumer}.weight": producer for consumer, producer in foldable(model).items()}


def _transposed(model: Any) -> list[str]:
    from arrow_quant_v2.torch.unfold import TRANSPOSED

    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, TRANSPOSED)]
