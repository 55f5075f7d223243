"""Gains and biases of outputs per time group: from calibration through the file to the layers of a loaded model."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig, QuantizedModel

torch = pytest.importorskip("torch")
from arrow_quant_v2.calibration import time_boundaries  # noqa: E402
from arrow_quant_v2.torch import collect_activations, load_quantized, timestep  # noqa: E402
from diffusers import UNet2DModel  # noqa: E402
from torch import nn  # noqa: E402

GROUPS = 2


def calls(model, count=16):
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        t = 100 if i % 16 < 8 else 900
        yield {"sample": torch.randn(2, 4, 16, 16, generator=generator), "timestep": t}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small UNet whose layers read inputs with large means, so that a bias per time group pays."""
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=32,
    ).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.bias.add_(2)
    path = tmp_path_factory.mktemp("unet") / "m"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def result(source, tmp_path_factory):
    model = UNet2DModel.from_pretrained(source).eval()
    statistics = collect_activations(model, calls(model), time_boundaries(1000, GROUPS)).statistics
    config = DiffusionQuantConfig(
        bit_width=2,
        group_size=64,
        min_accuracy=0.0,
        num_time_groups=GROUPS,
        strategy_time_aware="always",
        rounding="nearest",
    )
    output = tmp_path_factory.mktemp("q") / "q"
    return ArrowQuantV2().quantize_diffusion_model(source, output, config, statistics)


def corrections(result):
    return {layer["name"]: layer["time_correction"] for layer in result["layers"] if layer["time_correction"]}


def test_no_time_group_is_worse_and_the_cost_is_told(result):
    made = corrections(result)
    assert len(made) > 10
    for name, correction in made.items():
        pairs = zip(correction["error_before"], correction["error_after"], strict=True)
        assert all(after <= before for before, after in pairs), name
    kept = {name: c for name, c in made.items() if c["kind"] != "none"}
    assert len(kept) >= 3
    for name, correction in kept.items():
        assert correction["bits_per_weight"] > 0
        gain = sum(correction["error_before"]) / sum(correction["error_after"])
        assert gain > 4 ** correction["bits_per_weight"], name
    assert all(c["bits_per_weight"] == 0 for c in made.values() if c["kind"] == "none")


def test_corrections_come_back_from_the_file(result):
    kept = {name for name, c in corrections(result).items() if c["kind"] != "none"}
    stored = {t.name: t for t in QuantizedModel(result["quantized_path"]) if t.time_beta.size}
    assert set(stored) == kept
    for tensor in stored.values():
        assert tensor.correction_boundaries == (0.0, 500.0, 1000.0)
        assert tensor.time_beta.shape == (GROUPS * tensor.shape[0],)
        assert tensor.time_gamma.size in (0, tensor.time_beta.size)


@torch.no_grad()
def test_layers_correct_their_outputs_by_the_time(result):
    model = load_quantized(result["quantized_path"], torch.float32)
    plain = load_quantized(result["quantized_path"], torch.float32, expand=True)
    stored = {t.name: t for t in QuantizedModel(result["quantized_path"]) if t.time_beta.size}
    for name, tensor in stored.items():
        layer, expanded = (m.get_submodule(name.removesuffix(".weight")) for m in (model, plain))
        is_linear = len(tensor.shape) == 2
        x = torch.randn((4, 5, tensor.shape[1]) if is_linear else (4, tensor.shape[1], 8, 8))
        weight = torch.from_numpy(np.array(tensor.dequantize()))
        if is_linear:
            y = x @ weight.T
        else:
            y = nn.functional.conv2d(x, weight, None, layer._source.stride, layer._source.padding)
        betas = torch.from_numpy(tensor.time_beta.copy()).reshape(GROUPS, -1)
        gammas = torch.from_numpy(tensor.time_gamma.copy()).reshape(GROUPS, -1) if tensor.time_gamma.size else None
        wanted = []
        for i, group in enumerate([0, 1, 1, 0]):
            shape = (-1,) if is_linear else (-1, 1, 1)
            gain = 1 if gammas is None else gammas[group].reshape(shape)
            bias = 0 if layer.bias is None else layer.bias.reshape(shape)
            wanted.append(gain * y[i] + betas[group].reshape(shape) + bias)
        with timestep(model, [10, 990, 500, 499]), timestep(plain, [10, 990, 500, 499]):
            torch.testing.assert_close(layer(x), torch.stack(wanted), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(expanded(x), torch.stack(wanted), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_model_follows_its_call_and_comes_nearer_to_the_source(source, result, tmp_path):
    model = load_quantized(result["quantized_path"], torch.float32)
    reference = UNet2DModel.from_pretrained(source).eval()
    x = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(99))
    alone = model(x[:1], timestep=900).sample
    torch.testing.assert_close(
        model(x, timestep=torch.tensor([900, 100, 100, 900])).sample[:1], alone, atol=1e-4, rtol=1e-4
    )
    corrected = (model(x, timestep=100).sample - reference(x, timestep=100).sample).square().mean()
    for module in model.modules():
        if hasattr(module, "output_correction"):
            module._forward_hooks.clear()
    without = (model(x, timestep=100).sample - reference(x, timestep=100).sample).square().mean()
    assert corrected < without


@torch.no_grad()
def test_a_layer_that_is_told_no_time_says_so(result):
    stored = next(t for t in QuantizedModel(result["quantized_path"]) if t.time_beta.size and len(t.shape) == 4)
    layer = load_quantized(result["quantized_path"], torch.float32).get_submodule(stored.name.removesuffix(".weight"))
    with pytest.raises(ConfigurationError, match="tells no timestep"):
        layer(torch.randn(1, stored.shape[1], 8, 8))


def test_without_time_awareness_there_is_none(source, tmp_path):
    config = DiffusionQuantConfig(bit_width=4, min_accuracy=0.0, calibration="none")
    result = ArrowQuantV2().quantize_diffusion_model(source, tmp_path / "q", config)
    assert not corrections(result)
    assert json.dumps(result)


def test_the_columns_are_as_the_format_says(result):
    """docs/format.md: K + 1 times, and K gains (null: ones) and biases for each output channel."""
    (file,) = pathlib.Path(result["quantized_path"]).glob("*.parquet")
    kinds = {name: c["kind"] for name, c in corrections(result).items()}
    for row in pq.read_table(file).to_pylist():
        kind = kinds.get(row["layer_name"], "none")
        groups = len(row["correction_boundaries"] or [0.0]) - 1
        values = groups * row["shape"][row["quant_axis"] or 0] if groups else 0
        assert (groups > 0) is (kind != "none")
        assert len(row["time_beta"] or []) == values
        assert len(row["time_gamma"] or []) == (values if kind == "gain_and_bias" else 0)
