"""The sensitivity of a model to its layers, which mixed precision weights their errors by."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from arrow_quant_v2._native import core
from arrow_quant_v2.calibration import missing_packages, model_fingerprint, quantized_layers
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import ArrowQuantError, ModelNotFoundError, UnsupportedModelError
from arrow_quant_v2.progress import ProgressCallback

# By component and weight tensor.
Sensitivity = dict[str, dict[str, float]]


def layer_sensitivity(
    model_path: str | os.PathLike[str],
    config: DiffusionQuantConfig,
    statistics: Any,
    output: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Sensitivity:
    """What a few disturbed forward passes of the model show; empty where it cannot run.

    Args:
        statistics: activation statistics, or None: then the model is not run for its sensitivity either.
        output: of the run: what is measured stays beside its unfinished work, since another number of threads changes
            the last bits and a run that continues needs the very same.
    """
    if statistics is None:
        return {}
    if missing_packages() or not hasattr(statistics, "layers"):
        return {}
    if output is None:
        return _measure(model_path, statistics, config, progress)
    return _kept(
        pathlib.Path(core.staging_directory(os.fspath(output))),
        model_path,
        config,
        lambda: _measure(model_path, statistics, config, progress),
    )


def _kept(
    folder: pathlib.Path,
    model_path: str | os.PathLike[str],
    config: DiffusionQuantConfig,
    measure: Callable[[], Sensitivity],
) -> Sensitivity:
    file = folder / "layer_sensitivity.json"
    options = {key: value for key, value in config.to_dict().items() if key != "num_threads"}
    key = json.loads(json.dumps([model_fingerprint(model_path), options]))
    try:
        kept = json.loads(file.read_text("utf-8"))
        if kept["key"] == key:
            found: Sensitivity = kept["sensitivity"]
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or not complete
    found = measure()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".new")
    unfinished.write_text(json.dumps({"key": key, "sensitivity": found}), "utf-8")
    os.replace(unfinished, file)
    return found


def _measure(
    model_path: str | os.PathLike[str],
    statistics: Any,
    config: DiffusionQuantConfig,
    progress: ProgressCallback | None,
) -> Sensitivity:
    from arrow_quant_v2.torch.layer_sensitivity import sensitivity_of_layers

    layers = {name for component, name in quantized_layers(model_path, config) if not component}
    try:
        return {"": sensitivity_of_layers(model_path, statistics, layers, config, progress)}
    except (UnsupportedModelError, ModelNotFoundError):
        return {}
    except ArrowQuantError as error:
        if error.code not in ("metadata", "shape_mismatch"):
            raise
        return {}
