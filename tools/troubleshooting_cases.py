"""What docs/troubleshooting.md tells about: each case makes the program say something, in the current directory.

A case is a function without arguments. The paragraphs of its documentation are what a person sees or did, why, and what
to do where the message does not say it. It raises the error, or returns the sentence that the program printed.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel
from arrow_quant_v2._native import core
from arrow_quant_v2.calibration import CALIBRATION_FILE, model_fingerprint
from robustness.observe import make_model, normal

Case = Callable[[], Any]
NAME = "blocks.0.attn.to_q.weight"
MODEL = pathlib.Path("model")
OUT = pathlib.Path("out")
CONFIG = DiffusionQuantConfig(modality="image", group_size=32, calibration="none")


def _model(**tensors: np.ndarray[Any, Any]) -> pathlib.Path:
    return make_model(MODEL, {NAME: normal(64, 64), **tensors})


def _quantize(source: pathlib.Path = MODEL, statistics: Any = None, **changes: Any) -> dict[str, Any]:
    return ArrowQuantV2().quantize_diffusion_model(source, OUT, CONFIG.with_overrides(**changes), statistics)


# ---- reading a model


def no_model() -> Any:
    """the path is wrong

    Models are read from the disk only; a name on a hub is not downloaded.
    """
    return _quantize(pathlib.Path("owner/model"))


def no_weights() -> Any:
    """an empty folder

    The folder has neither .safetensors nor Parquet files. In a pipeline they lie in the folders of its parts.
    """
    MODEL.mkdir()
    return _quantize()


def pointer() -> Any:
    """a clone without Git LFS

    Git fetched a text file of three lines in the place of the weights.
    """
    _model()
    (MODEL / "model.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n"
    )
    return _quantize()


def cut_off() -> Any:
    """a download that was interrupted

    The header promises more bytes than the file has.
    """
    file = _model() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return _quantize()


def pickles() -> Any:
    """a model of .bin, .ckpt or .pt files

    A pickle is a program, which would run when it is read.
    """
    MODEL.mkdir()
    (MODEL / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    return _quantize()


def two_checkpoints() -> Any:
    """several models in a folder

    Which one is meant cannot be told.
    """
    _model()
    make_model(MODEL, {NAME: normal(64, 64)}, file="other.safetensors")
    return _quantize()


def quantized_elsewhere() -> Any:
    """a model that GPTQ, AWQ, bitsandbytes, ... made

    Its weights are codes of another quantizer; rounding them would give nonsense.
    """
    _model()
    (MODEL / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    return _quantize()


def unknown_modality() -> Any:
    """a model that neither library wrote

    Modality chooses which layers are kept, and nothing tells it.
    """
    make_model(MODEL, {"a.weight": normal(64, 64)})
    return _quantize(modality=None)


def not_finite() -> Any:
    """NaN in a weight

    The checkpoint is broken, often since training.
    """
    weight = normal(64, 64)
    weight[3, 4] = np.nan
    make_model(MODEL, {NAME: weight})
    return _quantize()


# ---- options


def unknown_key() -> Any:
    """a misspelt option

    Unknown keys are errors, so that none is ignored without a word.
    """
    return DiffusionQuantConfig.from_yaml_text("bit_widht: 4\n")


def group_size() -> Any:
    """a group size of 100

    Groups are of sizes that kernels and files know.
    """
    return CONFIG.with_overrides(group_size=100)


def output_exists() -> Any:
    """the second run into one folder

    Results are never replaced without being asked to.
    """
    _model()
    _quantize()
    return _quantize()


def output_is_input() -> Any:
    """the same folder twice

    The source would be gone before it is read.
    """
    _model()
    return ArrowQuantV2().quantize_diffusion_model(MODEL, MODEL, CONFIG, overwrite=True)


def changed_model() -> Any:
    """a calibration file that is older than the model

    Statistics fit the weights that they were made with only.
    """
    _model()
    statistics = core.ActivationStatistics([0.0, 1.0])
    facts = {"kind": "activations", "model_fingerprint": "of another"}
    statistics.save(str(MODEL / CALIBRATION_FILE), json.dumps(facts))
    return _quantize(calibration="auto")


# ---- quality


def _calibrated(rows: np.ndarray[Any, Any] | None, **changes: Any) -> dict[str, Any]:
    """A run whose layer has seen ``rows`` [samples, channels]; None: none."""
    _model()
    statistics = core.ActivationStatistics([0.0, 1.0])
    if rows is not None:
        number = statistics.add_input(64)
        statistics.map_layer("", NAME, [number])
        for held_out in (False, True):
            statistics.update(number, np.ascontiguousarray(rows, np.float32), 0.5, held_out)
    statistics.save("statistics.parquet", json.dumps({"model_fingerprint": model_fingerprint(MODEL)}))
    return _quantize(calibration="statistics.parquet", **changes)


def _fallback(result: dict[str, Any]) -> str:
    step = result["fallbacks"][0]
    before, after = f"INT{step['from_bits']}", f"INT{step['to_bits']}"
    if before == after:
        before, after = step["from_method"], step["to_method"]
    return f"fell back: {step['layer']} {before} -> {after}: {step['cause']}"


def below_least_cosine() -> Any:
    """more bits than asked for: fell back, weights

    The layer was not calibrated, and its weights are too far from the source's.

    Calibrate, take smaller groups, or a lower `--min-accuracy`.
    """
    _model()
    return _fallback(_quantize(bit_width=2, min_accuracy=0.95))


def outputs_below_least_cosine() -> Any:
    """more bits than asked for: fell back, outputs

    The layer's outputs on held-out samples are too far from the float ones.

    Take smaller groups, or a lower `--min-accuracy` where `evaluate` says that the whole model is fine.
    """
    return _fallback(_calibrated(normal(512, 64), bit_width=2, min_accuracy=0.99))


def never_reached() -> Any:
    """a layer without activations

    The samples do not use it, such as one for a condition that they lack. It is rounded to nearest.

    Give samples that use it.
    """
    return _fallback(_calibrated(None, min_accuracy=0.0))


def zero_activations() -> Any:
    """a layer with activations that are all zero

    Nothing tells which of its inputs count; often the samples are empty or wrongly scaled.

    Look at the data.
    """
    return _fallback(_calibrated(np.zeros((512, 64)), min_accuracy=0.0))


def strict() -> Any:
    """`--fail-fast` stops the run

    That is what it is for: the first layer below the least cosine ends it.
    """
    _model()
    return _quantize(bit_width=2, min_accuracy=0.95, fail_fast=True)


def pattern_without_effect() -> Any:
    """a warning about a pattern

    A regular expression of `--keep`, `--also` or layer_bit_widths matches no name.

    Compare it with the names that `--plan` lists.
    """
    _model()
    return _quantize(keep_patterns=["attention"])["warnings"][0]


def no_activations_at_all() -> Any:
    """a warning "weights only"

    The model could not be run to see its activations, so that rounding knows the weights alone. Quality at 2 and 3 bits
    suffers.

    Give data or samples, see [calibration.md](calibration.md); for a module of your own
    [examples/custom_module.py](../examples/custom_module.py).
    """
    _model()
    return _quantize(calibration="auto")["warnings"][-1]


# ---- using the result


def damaged_output() -> Any:
    """a copy that is not complete

    The manifest has other sizes than the files.
    """
    _model()
    _quantize()
    (file,) = OUT.glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-10])
    return QuantizedModel(OUT)


def no_class() -> Any:
    """load_quantized on a module of one's own

    Nothing tells which class to build.
    """
    from arrow_quant_v2.torch import load_quantized

    _model()
    _quantize()
    return load_quantized(OUT)


def _image_model() -> None:
    import diffusers

    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=3, out_channels=3, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    model.save_pretrained(MODEL)


def no_ranges() -> Any:
    """integer activations of a model without calibration

    Static ranges come from activations; the model was quantized without any.
    """
    from arrow_quant_v2.torch import load_quantized

    _image_model()
    _quantize()
    return load_quantized(OUT, activations="int8")


def no_timestep() -> Any:
    """a layer of an integer model is called by itself

    Ranges depend on the timestep, which the model's own call tells.
    """
    import torch
    from arrow_quant_v2.torch import load_quantized

    _image_model()
    _quantize(calibration="synthetic", calibration_samples=2, num_time_groups=2, min_accuracy=0.0)
    model = load_quantized(OUT, activations="int8")
    return model.get_submodule("transformer_blocks.0.ff.net.0.proj")(torch.zeros(1, 32))


SECTIONS: dict[str, list[Case]] = {
    "Reading a model": [
        no_model, no_weights, pointer, cut_off, pickles, two_checkpoints, quantized_elsewhere, unknown_modality,
        not_finite,
    ],
    "Options and outputs": [unknown_key, group_size, output_exists, output_is_input, changed_model],
    "Quality": [
        below_least_cosine, outputs_below_least_cosine, never_reached, zero_activations, strict, pattern_without_effect,
        no_activations_at_all,
    ],
    "Using the result": [damaged_output, no_class, no_ranges, no_timestep],
}  # fmt: skip
