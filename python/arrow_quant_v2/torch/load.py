"""Build the model of a quantized directory, its weights packed or expanded."""

from __future__ import annotations

import importlib
import logging
import pathlib
from typing import Any

import numpy as np
import torch
from torch import nn

from arrow_quant_v2.errors import ConfigurationError, MetadataError, ShapeMismatchError, UnsupportedModelError
from arrow_quant_v2.model_file import QuantizedModel, StoredTensor, read_json
from arrow_quant_v2.torch.activations import ACTIVATION_BITS
from arrow_quant_v2.torch.correction import add_correction
from arrow_quant_v2.torch.folding import fold_equalization
from arrow_quant_v2.torch.integer import make_integer
from arrow_quant_v2.torch.modules import PACKED_MODULES, PackedWeight, make_packed
from arrow_quant_v2.torch.remote_code import remote_model
from arrow_quant_v2.torch.synthetic import find_mask_token
from arrow_quant_v2.torch.time_state import follow_time
from arrow_quant_v2.torch.unfold import TRANSPOSED

_CONFIG_ONLY = "quantization_config"
_log = logging.getLogger("arrow_quant_v2")


def tensor_of(stored: StoredTensor) -> torch.Tensor:
    """A stored tensor as torch holds it: kept ones with their own dtype, quantized ones as float32."""
    if stored.quantized:
        return torch.from_numpy(np.array(stored.dequantize()))
    dtype: torch.dtype = getattr(torch, stored.dtype)
    if stored.data.size == 0:
        return torch.zeros(stored.shape, dtype=dtype)
    return torch.from_numpy(stored.data.copy()).view(dtype).reshape(stored.shape)


def load_state_dict(path: str | pathlib.Path, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Plain tensors by name, for any model class.

    Quantized tensors come as the source's dtype (or ``dtype``), kept ones unchanged (floating-point ones as ``dtype``
    when it is given). In a pipeline names are prefixed with "component.".

    Args:
        path: a directory that arrow-quant quantize wrote.
        dtype: of all floating-point tensors; None for the source's.

    Raises:
        ModelNotFoundError: there is no quantized model.
        CorruptFileError: a damaged file.
    """
    result: dict[str, torch.Tensor] = {}
    for stored in QuantizedModel(path):
        value = tensor_of(stored)
        if stored.quantized:
            value = value.to(dtype or getattr(torch, stored.dtype))
        elif dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        result[f"{stored.component}.{stored.name}" if stored.component else stored.name] = value
    return result


def load_quantized(
    path: str | pathlib.Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    expand: bool = False,
    activations: str | None = None,
    *,
    model: nn.Module | None = None,
    allow_remote_code: bool = False,
) -> nn.Module:
    """The diffusers or transformers model of config.json with quantized weights, in eval mode.

    Args:
        path: a directory with config.json, or a component of a pipeline.
        dtype: of kept floating-point tensors and of expanded weights; default the source's.
        device: where the modules live.
        expand: expand all weights once; otherwise linear and convolution weights stay packed in memory and are
            expanded in each call.
        activations: None leaves activations in floating point. "int8" computes quantized layers as an integer machine
            would, in the static ranges of the file: codes, exact integer sums, scales per group. "int6" and "int4" are
            the same with coarser codes over the same ranges, for study. Layers follow the timestep (or mask ratio) of
            the model's call by themselves; see arrow_quant_v2.torch.timestep. A layer without ranges takes one of each
            row, with a warning. Such layers give no gradients. Equalization is folded into the modules before a layer
            where the model's graph is known; see arrow_quant_v2.torch.folding.
        model: a module of the same class as the source's, whose weights are replaced; it is returned. For models that
            neither library can build.
        allow_remote_code: run the Python code in the directory where config.json's ``auto_map`` names it. It can do
            whatever you can do; look at it first.

    Raises:
        ConfigurationError: another value of ``activations``.
        UnsupportedModelError: activations are asked for and the file has no ranges at all.
        MetadataError: config.json names no class of diffusers or transformers; give ``model`` then.
    """
    bits = _activation_bits(activations)
    root = pathlib.Path(path)
    model = build_model(root, allow_remote_code) if model is None else model
    stored = {tensor.name: tensor for tensor in QuantizedModel(root)}
    if bits is not None:
        _check_ranges(root, stored)
    _check_names(model, stored)
    default = dtype or _source_dtype(stored)
    _cast(model, default)
    modules = dict(model.named_modules(remove_duplicate=False))
    corrected: list[tuple[str, StoredTensor]] = []
    with torch.no_grad():
        for name, tensor in stored.items():
            if tensor.time_beta.size:
                corrected.append((name.rpartition(".")[0], tensor))
            owner_name, _, leaf = name.rpartition(".")
            owner = modules.get(owner_name)
            if tensor.packed and leaf == "weight" and type(owner) in PACKED_MODULES and (bits or not expand):
                assert owner is not None
                weight = PackedWeight(tensor, default)
                if bits is not None and _reads_by_its_axis(owner, tensor):
                    packed = make_integer(owner, weight, tensor, bits, expand)
                else:
                    packed = make_packed(owner, weight)
                _replace(model, owner_name, packed)
            elif owner is not None:
                _assign(owner, leaf, tensor, default if dtype or tensor.quantized else None)
    for owner_name, tensor in corrected:
        add_correction(model.get_submodule(owner_name), tensor)
    if bits is not None:
        fold_equalization(model)
    if bits is not None or corrected:
        follow_time(model, find_mask_token(model, root))
    return model.to(device).eval()


def _activation_bits(activations: str | None) -> int | None:
    if activations is None:
        return None
    if activations not in ACTIVATION_BITS:
        raise ConfigurationError(f"activations is {activations!r}. Use None, 'int8', 'int6' or 'int4'.")
    return ACTIVATION_BITS[activations]


def _check_ranges(root: pathlib.Path, stored: dict[str, StoredTensor]) -> None:
    """Refuse a file without ranges; warn of single layers without."""
    packed = [tensor for tensor in stored.values() if tensor.packed]
    without = [tensor.name for tensor in packed if tensor.time_scales.size == 0]
    if packed and len(without) == len(packed):
        raise UnsupportedModelError(
            f"{root}: holds no ranges of activations. Quantize the model with calibration, or use activations=None.",
            file=str(root),
        )
    if without:
        _log.warning("%d layers have no static ranges and take one of each row: %s", len(without), without[:3])


def build_model(root: pathlib.Path, allow_remote_code: bool = False) -> nn.Module:
    """The model class of config.json with fresh weights; code from the directory only when it is allowed.

    Raises:
        MetadataError: config.json is missing or names no class that may be used.
    """
    config_path = root / "config.json"
    if not config_path.exists():
        raise MetadataError(f"{root}: no config.json. Use load_state_dict for a model without one.", file=str(root))
    config = {key: value for key, value in read_json(config_path).items() if key != _CONFIG_ONLY}
    if "_class_name" in config:
        return _diffusers_model(str(config["_class_name"]), config)
    if config.get("architectures"):
        name = str(config["architectures"][0])
        if not hasattr(importlib.import_module("transformers"), name) and isinstance(config.get("auto_map"), dict):
            return remote_model(root, config["auto_map"], name, allow_remote_code)
        return _transformers_model(name, config)
    raise MetadataError(f"{config_path}: names no class. Use load_state_dict.", file=str(config_path))


def _class(library: str, name: str, base: type) -> Any:
    """A model class of a library; never code from the model's directory."""
    found = getattr(importlib.import_module(library), name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise MetadataError(f"'{name}' is no model class of {library}. Use load_state_dict.")
    return found


def _diffusers_model(name: str, config: dict[str, Any]) -> nn.Module:
    cls = _class("diffusers", name, nn.Module)
    model: nn.Module = cls.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    return model


def _transformers_model(name: str, config: dict[str, Any]) -> nn.Module:
    transformers = importlib.import_module("transformers")
    cls = _class("transformers", name, nn.Module)
    settings = transformers.AutoConfig.for_model(**config)
    model: nn.Module = cls(settings)
    return model


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Without the warning of diffusers that modules should stay float32 where its list of them is empty."""
    if getattr(model, "_keep_in_fp32_modules", None):
        model.to(dtype)
    else:
        nn.Module.to(model, dtype)


def _reads_by_its_axis(owner: nn.Module, tensor: StoredTensor) -> bool:
    """Whether rows of the stored matrix are the module's outputs; else only whole weights are of use to it."""
    fits = isinstance(owner, TRANSPOSED) == (tensor.quant_axis == 1)
    if not fits:
        _log.warning(
            "'%s' is quantized along its %s axis, so its activations stay in floating point. Quantize it again with "
            "calibration, or with transposed_patterns.", tensor.name, ("first", "second")[tensor.quant_axis],
        )  # fmt: skip
    return fits


def _source_dtype(stored: dict[str, StoredTensor]) -> torch.dtype:
    """The commonest floating-point type of the source."""
    counts: dict[str, int] = {}
    for tensor in stored.values():
        if getattr(torch, tensor.dtype).is_floating_point and not tensor.dtype.startswith("float8"):
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
    return getattr(torch, max(counts, key=lambda key: counts[key])) if counts else torch.float32


def _check_names(model: nn.Module, stored: dict[str, StoredTensor]) -> None:
    wanted = model.state_dict()
    tied = {data.data_ptr(): name for name, data in wanted.items() if name in stored}
    missing = [name for name, data in wanted.items() if name not in stored and data.data_ptr() not in tied]
    unknown = [name for name in stored if name not in wanted]
    if missing or unknown:
        raise ShapeMismatchError(
            f"the model of config.json and the file do not fit: missing {missing[:3]}, unknown {unknown[:3]}. "
            "Use load_state_dict."
        )


def _assign(owner: nn.Module, leaf: str, stored: StoredTensor, dtype: torch.dtype | None) -> None:
    value = tensor_of(stored)
    if dtype is not None and value.is_floating_point():
        value = value.to(dtype)
    slot = getattr(owner, leaf)
    if tuple(slot.shape) != stored.shape:
        raise ShapeMismatchError(f"tensor '{stored.name}': {stored.shape} where the model has {tuple(slot.shape)}")
    slot.data = value


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent_name, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent_name), leaf, module)
