"""Where the activations of a quantization run come from."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any, Self

from arrow_quant_v2._native import core
from arrow_quant_v2.config import DiffusionQuantConfig
from arrow_quant_v2.errors import (
    ArrowQuantError,
    ConfigurationError,
    ModelNotFoundError,
    UnsupportedModelError,
)

CALIBRATION_FILE = "activation_statistics.parquet"

_SAMPLED_BYTES = 1 << 16
_TORCH_NEEDED = ("torch", "diffusers", "transformers")
_log = logging.getLogger("arrow_quant_v2")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Activations for a run: ``statistics`` (of the core, or None), ``kind`` ("activations" of given samples,
    "synthetic", "none") and ``reason``, a sentence for the user. ``wanted``: activations would have been better.
    ``sampled``: the model was run for them."""

    statistics: Any
    kind: str
    reason: str
    wanted: bool = True
    owner: Any = None  # keeps what the statistics are read from
    sampled: bool = False


class SampledStatistics:
    """The activations of a model's own sampling, kept beside the unfinished output of a run.

    Sampling takes long, and on another number of threads its sums differ in their last bits: a run that continues an
    interrupted one needs the very same. As a context it keeps the output to this run.

    Args:
        output: the directory that the run makes.
        model_path: what is sampled.
        config: every option counts but the number of threads.
    """

    def __init__(
        self, output: str | os.PathLike[str], model_path: str | os.PathLike[str], config: DiffusionQuantConfig
    ) -> None:
        self._output = os.fspath(output)
        self._path = pathlib.Path(core.staging_directory(self._output)) / "statistics.parquet"
        self._made_from = self._path.with_suffix(".json")  # written last
        options = {key: value for key, value in config.to_dict().items() if key != "num_threads"}
        self._options = json.loads(json.dumps(options))
        self._model_path = model_path
        self._lock: Any = None

    def __enter__(self) -> Self:
        self._lock = core.RunLock(self._output)
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def load(self) -> Any:
        """Those of an earlier run of this model and configuration, or None."""
        try:
            if json.loads(self._made_from.read_text("utf-8")) != self._options:
                return None
            statistics = core.StatisticsFile(os.fspath(self._path))
        except (OSError, ValueError, ArrowQuantError):
            return None  # none, or not complete
        of_this_model = json.loads(statistics.facts).get("model_fingerprint") == model_fingerprint(self._model_path)
        return statistics if of_this_model else None

    def save(self, collected: Any) -> Any:
        """Keep new ones (see statistics_run.Collected); what a later run will load."""
        self._made_from.unlink(missing_ok=True)
        collected.save(self._path)
        self._made_from.write_text(json.dumps(self._options), "utf-8")
        return core.StatisticsFile(os.fspath(self._path))


def time_boundaries(span: float, num_time_groups: int, steps: int = 0) -> list[float]:
    """Boundaries of equally long time groups over [0, span], at most ``steps`` groups where that is not 0."""
    boundaries: list[float] = core.uniform_time_groups(span, num_time_groups, steps)
    return boundaries


def model_fingerprint(model_path: str | os.PathLike[str]) -> str:
    """A hash of a model's tensors: names, shapes, dtypes, and bytes of every tensor's beginning, middle and end.

    Copies of a model share it; file names and times do not matter.
    """
    digest = hashlib.blake2b(digest_size=16)
    tensors = json.loads(core.source_tensors(os.fspath(model_path)))
    for tensor in sorted(tensors, key=lambda t: (t["component"], t["name"])):
        digest.update(json.dumps([tensor[k] for k in ("component", "name", "dtype", "shape")]).encode())
        with open(tensor["file"], "rb") as file:
            size, part = int(tensor["num_bytes"]), min(int(tensor["num_bytes"]), _SAMPLED_BYTES)
            for begin in (0, (size - part) // 2, size - part):
                file.seek(int(tensor["offset"]) + begin)
                digest.update(file.read(part))
    return digest.hexdigest()


def quantized_layers(model_path: str | os.PathLike[str], config: DiffusionQuantConfig) -> dict[tuple[str, str], int]:
    """Bits of every (component, tensor) that a run with ``config`` quantizes."""
    plan = _plan_of_headers(model_path, config, diffusion=False)
    return {(layer["component"], layer["name"]): layer["bits"] for layer in plan["layers"]}


def detected_modality(model_path: str | os.PathLike[str], config: DiffusionQuantConfig) -> str:
    """The modality that a run takes a model for; "" where it cannot tell."""
    try:
        plan = _plan_of_headers(model_path, config, diffusion=True)
    except ArrowQuantError:
        return ""
    return str(plan["modality"])


def _plan_of_headers(
    model_path: str | os.PathLike[str], config: DiffusionQuantConfig, *, diffusion: bool
) -> dict[str, Any]:
    """Without what mixed precision would have to measure, and as if there were activations, which a saved plan may
    count on."""
    options = {**config.to_dict(), "diffusion": diffusion, "enable_mixed_precision": False}
    plan: dict[str, Any] = json.loads(core.plan_model(os.fspath(model_path), json.dumps(options), None, "synthetic"))
    return plan


def load_statistics(path: str | os.PathLike[str], model_path: str | os.PathLike[str]) -> Any:
    """The statistics in a calibration file, which must be of this model.

    Raises:
        ModelNotFoundError, CorruptFileError: no such file, or another kind of file.
        ConfigurationError: statistics of another model.
    """
    statistics = core.StatisticsFile(os.fspath(path))
    made_from = json.loads(statistics.facts).get("model_fingerprint")
    if made_from != model_fingerprint(model_path):
        raise ConfigurationError.compose(
            "these activation statistics are of another model, or the model has changed since",
            file=os.fspath(path),
            remedy="Make them again with arrow-quant calibrate, or use calibration='none'.",
        )
    return statistics


def expected_calibration(
    model_path: str | os.PathLike[str], config: DiffusionQuantConfig, may_sample: bool = True
) -> str:
    """The kind that find_calibration will most likely give, without running the model."""
    if config.calibration in ("none", "synthetic"):
        return config.calibration
    if config.calibration != "auto":
        return "activations"
    if config.rounding == "nearest" or config.strategy == "none":
        return "none"
    folder = _folder(model_path)
    if (folder / CALIBRATION_FILE).exists():
        return "activations"
    runs = may_sample and (folder / "config.json").exists() and not missing_packages()
    return "synthetic" if runs else "none"


def find_calibration(
    model_path: str | os.PathLike[str],
    config: DiffusionQuantConfig,
    progress_callback: Callable[[str, float], None] | None = None,
    may_sample: bool = True,
    keep: SampledStatistics | None = None,
) -> Calibration:
    """What ``config.calibration`` stands for.

    "auto": activation_statistics.parquet in the model's folder, else the model's own sampling where its class can be
    built and sampled (and ``may_sample``), else none; "synthetic" and a path must succeed. ``keep`` says where sampled
    statistics are kept for another run, and may have those of an earlier one.
    """
    wanted = config.calibration
    if wanted == "none":
        return Calibration(None, "none", "calibration is none: weights only.", wanted=False)
    if (config.rounding == "nearest" or config.strategy == "none") and wanted == "auto":
        return Calibration(None, "none", "nearest rounding needs no activations: weights only.", wanted=False)
    if wanted == "synthetic":
        return _synthetic(model_path, config, progress_callback, keep)
    if wanted != "auto":
        return _from_file(pathlib.Path(wanted), model_path, config)
    beside = _folder(model_path) / CALIBRATION_FILE
    if beside.exists():
        return _from_file(beside, model_path, config)
    if not may_sample:
        return Calibration(
            None, "none", f"weights only: there is no {CALIBRATION_FILE} beside the model.", wanted=False
        )
    missing = missing_packages()
    if missing:
        return _weights_only(f"{', '.join(missing)} not installed, so the model cannot be run")
    try:
        return _synthetic(model_path, config, progress_callback, keep)
    except (UnsupportedModelError, ModelNotFoundError) as error:
        return _weights_only(str(error))
    except ArrowQuantError as error:
        if error.code not in ("metadata", "shape_mismatch"):
            raise
        return _weights_only(str(error))


def missing_packages() -> list[str]:
    """What running a model needs and is not installed."""
    return [name for name in _TORCH_NEEDED if importlib.util.find_spec(name) is None]


def _folder(model_path: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(model_path)
    return path if path.is_dir() else path.parent


def _weights_only(cause: str) -> Calibration:
    reason = f"weights only, without activations: {cause.rstrip('.')}."
    _log.info(reason)
    return Calibration(None, "none", reason)


def _from_file(path: pathlib.Path, model_path: str | os.PathLike[str], config: DiffusionQuantConfig) -> Calibration:
    statistics = load_statistics(path, model_path)
    facts = json.loads(statistics.facts)
    reason = f"activations from {path}."
    stages = facts.get("stages", 1)
    if stages != config.calibration_stages:
        reason += f" It was made in {stages} stages, whatever calibration_stages says."
    return Calibration(statistics, str(facts.get("kind", "activations")), reason)


def _synthetic(
    model_path: str | os.PathLike[str],
    config: DiffusionQuantConfig,
    progress_callback: Callable[[str, float], None] | None,
    keep: SampledStatistics | None,
) -> Calibration:
    found = keep.load() if keep is not None else None
    if found is not None:
        return Calibration(found, "synthetic", f"activations of {json.loads(found.facts)['description']}.")
    from arrow_quant_v2.torch.calibrate import sample_model

    collected = sample_model(model_path, config, progress_callback)
    reason = f"activations of {collected.description}."
    statistics = collected.statistics if keep is None else keep.save(collected)
    return Calibration(statistics, "synthetic", reason, owner=collected, sampled=True)
