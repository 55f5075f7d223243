"""A float model and the quantized one that was made from it."""

from __future__ import annotations

import copy
import dataclasses
import os
import pathlib

import torch
from torch import nn

from arrow_quant_v2.errors import ConfigurationError, MetadataError, ShapeMismatchError, UnsupportedModelError
from arrow_quant_v2.model_file import QuantizedModel
from arrow_quant_v2.torch.calibrate import load_float_model
from arrow_quant_v2.torch.load import load_quantized
from arrow_quant_v2.torch.synthetic import SelfSampling, find_mask_token, self_sampling

CALLS_REMEDY = "From Python give calls, the arguments of some forward calls."
# Apart from the seeds of calibration, whose samples must not be met again. The generator takes 32 bits.
_HELD_OUT = 0x48E1D001


@dataclasses.dataclass(frozen=True)
class ModelPair:
    """Both models in evaluation mode, their kept weights and activations in float32, so that only quantization differs.

    ``path`` of the float model; ``mask_token_id`` of masked language models, None for others.
    """

    path: pathlib.Path
    reference: nn.Module
    candidate: nn.Module
    mask_token_id: int | None

    def sampling(self) -> SelfSampling:
        """How both are sampled. Raises UnsupportedModelError where it is not known."""
        try:
            return self_sampling(self.reference, self.path)
        except UnsupportedModelError as error:
            raise cannot_run(self.path, error) from error


def load_pair(
    original: str | os.PathLike[str],
    quantized: str | os.PathLike[str],
    activations: str | None = None,
    allow_remote_code: bool = False,
) -> ModelPair:
    """Load both models; ``activations`` and ``allow_remote_code`` as for load_quantized. Both are built by the float
    model's folder.

    Raises:
        UnsupportedModelError: a pipeline, or a file without the ranges that ``activations`` needs.
        MetadataError: no config.json, or one that names no class.
        ModelNotFoundError, CorruptFileError, ShapeMismatchError: from reading them.
    """
    path = pathlib.Path(original)
    for given in (path, pathlib.Path(quantized)):
        _check_folder(given if given.is_dir() else given.parent)
    reference = load_float_model(path, allow_remote_code)
    _check_tensors(reference, pathlib.Path(quantized))
    candidate = load_quantized(
        pathlib.Path(quantized), dtype=torch.float32, activations=activations, model=copy.deepcopy(reference)
    )
    return ModelPair(path, reference, candidate, find_mask_token(reference, path))


def _check_folder(root: pathlib.Path) -> None:
    if (root / "model_index.json").exists():
        raise UnsupportedModelError.compose(
            "a pipeline has several models, which are compared one by one",
            file=str(root),
            remedy="Give the folder of the same part in both, such as unet or transformer.",
        )
    if root.is_dir() and not (root / "config.json").exists():
        raise MetadataError.compose(
            "there is no config.json, so the model cannot be built and run",
            file=str(root),
            remedy="Put the model's config.json there, or validate its weights alone.",
        )


def _check_tensors(reference: nn.Module, quantized: pathlib.Path) -> None:
    """Refuse a quantized model that was made from another one."""
    wanted = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
    for tensor in QuantizedModel(quantized).entries:
        if wanted.get(tensor.name) != tensor.shape:
            has = wanted.get(tensor.name, "no such tensor")
            raise ShapeMismatchError.compose(
                f"its shape is {tensor.shape} where the float model has {has}",
                file=str(quantized),
                tensor=tensor.name,
                remedy="Give the model that it was made from.",
            )


def cannot_run(path: pathlib.Path, error: UnsupportedModelError) -> UnsupportedModelError:
    """The error of a model whose inputs cannot be made up, with the remedy that a comparison has."""
    return UnsupportedModelError.compose(
        f"the model cannot be sampled: {error.problem}", file=str(path), remedy=CALLS_REMEDY
    )


def held_out_seed(seed: int) -> int:
    """The generator's seed for samples that calibration with the same ``seed`` has not seen."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigurationError(f"seed is {seed!r}. Use a whole number from 0 to {2**31 - 1}.")
    return (seed + _HELD_OUT) % 2**32


def checked_count(samples: int, name: str = "samples") -> int:
    """Raises ConfigurationError for anything but a whole number above 0."""
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ConfigurationError(f"{name} is {samples!r}. Use a whole number from 1.")
    return samples
