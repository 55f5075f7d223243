"""Transforms of layers' inputs: they preserve the function, are chosen where they help, and come back exactly."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from arrow_quant_v2 import (
    ArrowQuantV2,
    DiffusionQuantConfig,
    QuantizedModel,
    SpatialQuantizer,
    ValidationError,
    quantize_layer,
)
from arrow_quant_v2._native import core
from helpers import exact_codes_of
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from arrow_quant_v2.torch import collect_activations, load_quantized  # noqa: E402
from arrow_quant_v2.torch.activations import ActivationTable  # noqa: E402
from arrow_quant_v2.torch.input_transform import InputTransform, rotate, rotation_signs  # noqa: E402
from torch import nn  # noqa: E402

CHANNELS, OUTPUTS = 96, 48


class Layers(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def outlier_inputs(shape, loud=(3,), factor=60.0, mean=0.0, seed=0):
    """Rows whose channels (axis 1) are of one size but for some loud ones, and whose means may differ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    for channel in loud:
        x[:, channel] *= factor
    means = torch.randn(shape[1], generator=torch.Generator().manual_seed(1234)) * mean
    return x + means.reshape(1, -1, *[1] * (len(shape) - 2))


def statistics_of(layer, inputs, times=(0, 100)):
    samples = ({"x": part, "timestep": torch.full((len(part),), times[i % 2])} for i, part in enumerate(inputs))
    return collect_activations(Layers(layer), samples, (0.0, 50.0, 150.0)).statistics


def config(**options):
    return DiffusionQuantConfig(**{"bit_width": 8, "group_size": 32, "min_accuracy": 0.0, "num_time_groups": 2,
                                   "activation_bits": 8, **options})  # fmt: skip


def linear_case(**inputs):
    torch.manual_seed(0)
    layer = nn.Linear(CHANNELS, OUTPUTS)
    parts = [outlier_inputs((64, CHANNELS), seed=i, **inputs) for i in range(8)]
    return layer, statistics_of(layer, parts)


def quantized(layer, statistics, **options):
    weight = layer.weight.detach().numpy()
    return SpatialQuantizer(config(**options)).quantize(weight, statistics, "layer.weight")


@pytest.mark.parametrize(
    "options",
    [
        {"equalization": "balance", "smoothing": "none"},
        {"equalization": "grid", "smoothing": "none"},
        {"equalization": "none", "smoothing": "shift"},
        {"equalization": "none", "smoothing": "none", "hadamard": "block"},
        {"equalization": "balance", "smoothing": "shift", "hadamard": "block"},
    ],
)
def test_every_transform_preserves_the_function(options):
    layer, statistics = linear_case(mean=3.0)
    made = quantized(layer, statistics, **options)
    x = outlier_inputs((50, CHANNELS), seed=99).numpy()
    want = x @ made.layer.dequantize().T
    np.testing.assert_allclose(made.outputs(x), want, atol=1e-5 * np.abs(want).max())
    assert made.report["shift"] is (options["smoothing"] == "shift")
    assert made.report["rotation"] is (options.get("hadamard") == "block")
    if options["equalization"] != "none":
        assert made.report["equalization"] == options["equalization"]


def activation_error(made, x):
    """Of the outputs, by 8-bit activations alone."""
    rows = made.transform(x)
    boundaries = made.ranges.boundaries
    codes = made.ranges.encode(rows, boundaries[0])
    values = made.ranges.decode(codes, boundaries[0])
    weight = made.transformed_weight()
    return float(np.square((values - rows) @ weight.T).sum() / np.square(rows @ weight.T).sum())


def test_a_loud_channel_is_equalized():
    layer, statistics = linear_case()
    plain = quantized(layer, statistics, strategy_spatial="never", equalization="none")
    made = quantized(layer, statistics)
    assert made.report["equalization"] in ("balance", "grid")
    assert made.report["error"] < made.report["plain_error"] / 2
    x = outlier_inputs((200, CHANNELS), seed=5).numpy()
    assert activation_error(made, x) < activation_error(plain, x) / 4
    scales = made.layer.column_scales
    assert scales[3] < np.median(scales) / 4


def test_means_are_shifted_where_that_helps():
    layer, statistics = linear_case(loud=(), mean=20.0)
    shifted = quantized(layer, statistics, equalization="none")
    assert shifted.report["shift"]
    seen = torch.cat([outlier_inputs((64, CHANNELS), (), mean=20.0, seed=i) for i in range(7)]).mean(0)
    np.testing.assert_allclose(shifted.shift, seen.numpy(), rtol=0.1, atol=2)
    assert not quantized(layer, statistics, equalization="none", smoothing="none").shift.size
    _, calm = linear_case(loud=())
    assert not quantized(layer, calm, equalization="none").report["shift"]


def test_rotation_helps_with_outliers_in_single_rows():
    torch.manual_seed(0)
    layer = nn.Linear(128, OUTPUTS)

    def spikes(seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((64, 128), generator=generator)
        where = torch.randint(0, 128, (64,), generator=generator)
        x[torch.arange(64), where] *= 40
        return x

    statistics = statistics_of(layer, [spikes(i) for i in range(16)])
    made = quantized(layer, statistics, hadamard="auto", smoothing="none")
    assert made.report["rotation"]
    assert made.report["error"] < made.report["plain_error"]


def test_what_does_not_help_is_recorded_with_its_cause():
    """Convolutions in groups have no common scales."""
    layer = nn.Conv1d(CHANNELS, OUTPUTS, 1, groups=2)
    parts = [outlier_inputs((8, CHANNELS, 16), seed=i) for i in range(8)]
    made = SpatialQuantizer(config(smoothing="none")).quantize(
        layer.weight.detach().numpy(), statistics_of(layer, parts), "layer.weight"
    )
    assert made.report["equalization"] == "none"
    (fallback,) = [f for f in made.fallbacks if f["from_method"] == "spatial"]
    assert (fallback["layer"], fallback["to_method"]) == ("layer.weight", "per_channel")
    assert "groups" in fallback["cause"]


CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(12, 10, 3, padding=1), (12, 40)),
    "2d": (lambda: nn.Conv2d(12, 10, 3, padding=1, stride=2), (12, 12, 12)),
    "3d": (lambda: nn.Conv3d(4, 6, 3, padding=1), (4, 6, 6, 6)),
    "1x1": (lambda: nn.Conv2d(40, 10, 1), (40, 8, 8)),
    "grouped": (lambda: nn.Conv2d(12, 12, 3, padding=1, groups=3), (12, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(12, 12, 3, padding=1, groups=12), (12, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(12, 10, 4, stride=2, padding=1), (12, 6, 6)),
    "transposed 1d, grouped": (lambda: nn.ConvTranspose1d(12, 8, 4, stride=2, padding=1, groups=2), (12, 20)),
}


class Wrapped(nn.Module):
    """A model of one convolution that the file's loader can be given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.block = layer

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return out


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("options", [{}, {"smoothing": "shift"}, {"smoothing": "shift", "hadamard": "block"}])
def test_convolutions_of_all_kinds(tmp_path, monkeypatch, kind, options):
    from safetensors.torch import save_file

    make, shape = CONVOLUTIONS[kind]
    torch.manual_seed(0)
    model = Wrapped(make()).eval()
    (tmp_path / "m").mkdir()
    save_file(model.state_dict(), tmp_path / "m" / "model.safetensors")
    inputs = [outlier_inputs((8, *shape), factor=30.0, mean=4.0, seed=i) for i in range(8)]
    samples = [{"x": x, "timestep": torch.zeros(len(x))} for x in inputs]
    statistics = collect_activations(model, samples, (0.0, 1.0)).statistics
    settings_ = config(
        modality="image", num_time_groups=1, quantize_patterns=["block"],
        transposed_patterns=["block"] if "transposed" in kind else [], **options,
    )  # fmt: skip
    result = ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "q", settings_, statistics)
    (layer,) = result["layers"]
    assert layer["name"] == "block.weight"
    grouped = kind in ("grouped", "depthwise")
    assert (layer["spatial"]["equalization"] == "none") or not grouped
    x = outlier_inputs((4, *shape), factor=30.0, mean=4.0, seed=77)
    with torch.no_grad():
        want = model(x, torch.zeros(4))
        packed = load_quantized(tmp_path / "q", torch.float32, model=Wrapped(make()))
        integer = load_quantized(tmp_path / "q", torch.float32, model=Wrapped(make()), activations="int8")
        got, coded = packed(x, torch.zeros(4)), integer(x, torch.zeros(4))
    energy = want.square().sum()
    assert (got - want).square().sum() < 1e-3 * energy
    assert (coded - want).square().sum() < 1e-2 * energy
    monkeypatch.setattr(ActivationTable, "encode", exact_codes_of)
    with torch.no_grad():
        assert (integer(x, torch.zeros(4)) - got).norm() < 1e-5 * got.norm()
    if options and not grouped:
        (stored,) = (t for t in QuantizedModel(tmp_path / "q") if t.quantized)
        assert layer["spatial"]["shift"]
        assert stored.shift.size
        fallen = [f["from_method"] for f in result["fallbacks"]]
        assert layer["spatial"]["rotation"] or "spatial" in fallen or "hadamard" not in options


def test_a_file_that_took_a_transposed_convolution_for_another_is_no_trap(tmp_path, caplog):
    """Square weights fit both ways. Their activations stay in floating point, with a warning."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = Wrapped(nn.ConvTranspose1d(12, 12, 4, stride=2, padding=1)).eval()
    (tmp_path / "m").mkdir()
    save_file(model.state_dict(), tmp_path / "m" / "model.safetensors")
    samples = [{"x": torch.randn(8, 12, 20), "timestep": torch.zeros(8)} for _ in range(4)]
    statistics = collect_activations(model, samples, (0.0, 1.0)).statistics
    unaware = config(modality="audio", num_time_groups=1, quantize_patterns=["block"])
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "q", unaware, statistics)
    given_model = Wrapped(nn.ConvTranspose1d(12, 12, 4, stride=2, padding=1))
    loaded = load_quantized(tmp_path / "q", torch.float32, model=given_model, activations="int8")
    assert "transposed_patterns" in caplog.text
    with torch.no_grad():
        want, got = model(**samples[0]), loaded(**samples[0])
    assert (want - got).norm() < 0.05 * want.norm()


@settings(max_examples=30, deadline=None)
@given(cols=st.integers(1, 200), seed=st.integers(0, 2**53 - 1))
def test_torch_rotates_as_the_core_does(cols, seed):
    rows = np.random.default_rng(cols).standard_normal((3, cols)).astype(np.float32)
    signs = rotation_signs(cols, seed)
    for inverse in (False, True):
        want = core.rotate_rows(rows, seed, inverse)
        got = rotate(torch.from_numpy(rows), signs, inverse)
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


@pytest.fixture(scope="module")
def model_statistics(demo_model):
    """Noise at times from all over the schedule; the eighth sample of each call is held out."""
    from arrow_quant_v2.torch.calibrate import load_float_model

    def call(seed, batch=8):
        generator = torch.Generator().manual_seed(seed)
        return {
            "hidden_states": torch.randn(batch, 1, 28, 28, generator=generator),
            "timestep": (torch.arange(batch) * 61 + seed * 200) % 1000,
            "class_labels": torch.randint(0, 10, (batch,), generator=generator),
        }

    return collect_activations(load_float_model(demo_model), map(call, range(6)), (0.0, 500.0, 1000.0)).statistics


@pytest.fixture(scope="module")
def transformed(tmp_path_factory, demo_model, model_statistics):
    """With all transforms on."""
    settings_ = DiffusionQuantConfig(
        bit_width=4, group_size=64, min_accuracy=0.0, activation_bits=8, smoothing="shift", hadamard="auto"
    )
    folder = tmp_path_factory.mktemp("spatial") / "q"
    return folder, ArrowQuantV2().quantize_diffusion_model(demo_model, folder, settings_, model_statistics)


def test_what_is_stored_comes_back_exactly(transformed):
    folder, result = transformed
    by_name = {layer["name"]: layer for layer in result["layers"]}
    rows = {row["layer_name"]: row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()}
    assert result["strategy"] == "GPTQ + Spatial"
    for stored in QuantizedModel(folder):
        if not stored.quantized:
            continue
        spatial, row = by_name[stored.name]["spatial"], rows[stored.name]
        np.testing.assert_array_equal(stored.column_scales, np.float32(row["equalization_scales"] or []))
        np.testing.assert_array_equal(stored.shift, np.float32(row["shift"] or []))
        assert stored.rotation_seed == row["rotation_seed"]
        assert (stored.rotation_seed is not None) is spatial["rotation"]
        assert (stored.shift.size > 0) is spatial["shift"]
        assert (stored.column_scales.size > 0) is (spatial["equalization"] != "none")
        assert stored.equalization_producer == row["equalization_producer"] == spatial["producer"]
        old = json.loads(row["spatial_quant_json"] or "{}")
        if spatial["equalization"] in ("balance", "grid"):
            np.testing.assert_array_equal(np.float32(old["equalization_scales"]), stored.column_scales)
            assert old["channel_equalization"] is True


def test_layers_that_share_an_input_are_offered_the_same_scales(tmp_path, demo_model, model_statistics):
    settings_ = DiffusionQuantConfig(
        bit_width=8, group_size=64, min_accuracy=0.0, activation_bits=8, equalization="grid", smoothing="none"
    )
    result = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", settings_, model_statistics)
    equalized = {layer["name"] for layer in result["layers"] if layer["spatial"]["equalization"] == "grid"}
    scales = {t.name: t.column_scales for t in QuantizedModel(tmp_path / "q") if t.name in equalized}
    pairs = 0
    for name in scales:
        query = name.replace("to_k", "to_q").replace("to_v", "to_q")
        if query in scales and query != name:
            np.testing.assert_array_equal(scales[name], scales[query])
            pairs += 1
    assert pairs > 4


@pytest.fixture
def exact_codes(monkeypatch):
    monkeypatch.setattr(ActivationTable, "encode", exact_codes_of)


def test_the_whole_model_is_the_same_function(transformed, exact_codes):
    folder, _ = transformed
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    call = {"timestep": torch.tensor([400, 20]), "class_labels": torch.tensor([1, 2])}
    packed = load_quantized(folder, torch.float32)
    integer = load_quantized(folder, torch.float32, activations="int8")
    assert any(getattr(module, "input_is_scaled", False) for module in integer.modules())
    with torch.no_grad():
        want, got = packed(x, **call).sample, integer(x, **call).sample
    assert (want - got).norm() < 1e-5 * want.norm()


EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples" / "models"


@pytest.mark.parametrize("name", ["unet_digits", "unet1d_voice"])
def test_whole_convolutional_models_are_the_same_function(tmp_path, exact_codes, name):
    from arrow_quant_v2.torch.calibrate import load_float_model

    model = load_float_model(EXAMPLES / name)
    config_of = model.config
    size = config_of.sample_size
    shape = (8, config_of.in_channels, size) if name == "unet1d_voice" else (8, config_of.in_channels, size, size)

    def call(seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=generator)
        return {"sample": x, "timestep": torch.full((8,), 100 + 400 * seed)}

    statistics = collect_activations(model, map(call, range(2)), (0.0, 300.0, 1000.0)).statistics
    settings_ = config(group_size=64, smoothing="shift", equalization="balance", hadamard="auto")
    result = ArrowQuantV2().quantize_diffusion_model(EXAMPLES / name, tmp_path / "q", settings_, statistics)
    assert sum(layer["spatial"]["equalization"] == "balance" for layer in result["layers"] if layer["spatial"]) > 10
    packed = load_quantized(tmp_path / "q", torch.float32)
    integer = load_quantized(tmp_path / "q", torch.float32, activations="int8")
    given_call = {key: value[:2] for key, value in call(7).items()} | {"timestep": torch.tensor([500, 20])}
    with torch.no_grad():
        want, got = packed(**given_call).sample, integer(**given_call).sample
    assert (want - got).norm() < 1e-5 * want.norm()


def test_rates_and_the_plan_name_the_transform(transformed):
    _, result = transformed
    rate = result["fallback_rate"]["spatial"]
    layers = [layer for layer in result["layers"] if layer["spatial"]]
    kinds = [(s["spatial"]["equalization"], s["spatial"]["rotation"], s["spatial"]["shift"]) for s in layers]
    plain = [s for s, kind in zip(layers, kinds, strict=True) if kind == ("none", False, False)]
    assert rate == pytest.approx(len(plain) / len(layers))
    recorded = [f for f in result["fallbacks"] if f["from_method"] == "spatial"]
    assert sorted(f["layer"] for f in recorded) == sorted(layer["name"] for layer in plain)
    assert all(f["cause"] for f in recorded)
    other = {f["layer"] for f in result["fallbacks"] if f["from_method"] != "spatial"}
    assert result["layers_fallen_back"] == len(other)  # nothing was asked for by name


def test_demanded_transforms_that_do_not_help_are_a_failure(tmp_path, demo_model, model_statistics):
    """Rounding to the nearest values makes none, and says so."""
    asked = DiffusionQuantConfig(
        bit_width=8,
        group_size=64,
        min_accuracy=0.0,
        equalization="balance",
        smoothing="none",
        rounding="nearest",
    )
    result = ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", asked, model_statistics)
    recorded = [f for f in result["fallbacks"] if f["from_method"] == "spatial"]
    assert len(recorded) == len(result["layers"])
    assert all("nearest" in f["cause"] for f in recorded)
    assert result["layers_fallen_back"] == len(result["layers"])
    with pytest.raises(ValidationError, match="transforms nothing"):
        ArrowQuantV2().quantize_diffusion_model(
            demo_model, tmp_path / "f", dataclasses.replace(asked, fail_fast=True), model_statistics
        )


def output_error(made, x, want):
    """Of W4A8 outputs, relative."""
    rows = made.transform(x)
    time = made.ranges.boundaries[0]
    values = made.ranges.decode(made.ranges.encode(rows, time), time)
    got = values @ made.transformed_weight().T
    if made.shift.size:
        got = got + made.layer.dequantize() @ made.shift
    return float(np.square(got - want).sum() / np.square(want).sum())


def test_an_outlier_channel_costs_less_than_a_tenth():
    """One input channel times 50, its column of the weight over 50, or the other way round."""
    weight = np.random.default_rng(0).standard_normal((OUTPUTS, CHANNELS)).astype(np.float32)
    seen = [outlier_inputs((128, CHANNELS), (), seed=i) for i in range(16)]
    x = outlier_inputs((400, CHANNELS), (), seed=99).numpy()
    want = x @ weight.T

    def error(factor, **options):
        layer = nn.Linear(CHANNELS, OUTPUTS, bias=False)
        changed, inputs = weight.copy(), [part.clone() for part in seen]
        changed[:, 3] /= factor
        layer.weight.data = torch.from_numpy(changed)
        for part in inputs:
            part[:, 3] *= factor
        own = x.copy()
        own[:, 3] *= factor
        return output_error(quantized(layer, statistics_of(layer, inputs), bit_width=4, **options), own, want)

    without = error(1)
    for factor in (50, 1 / 50):
        assert error(factor) < 1.1 * without
        assert error(factor, strategy_spatial="never", equalization="none", smoothing="none") > 1.5 * without


def test_integer_layers_without_scales_are_as_before():
    layer = quantize_layer(np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32))
    assert layer.rotation_seed is None
    stored = QuantizedLayerStub(layer)
    assert not InputTransform(stored, 1).of_columns


class QuantizedLayerStub:
    def __init__(self, layer):
        self.column_scales = layer.column_scales
        self.shift = np.zeros(0, np.float32)
        self.rotation_seed = None
        self.matrix_shape = layer.shape
