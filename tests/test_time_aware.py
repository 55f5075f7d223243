"""Static activation ranges per time group: from statistics through the file to integer inference."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import logging
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pyarrow.parquet as pq  # noqa: E402
from arrow_quant_v2 import (  # noqa: E402
    ArrowQuantV2,
    ConfigurationError,
    DiffusionQuantConfig,
    QuantizedModel,
    UnsupportedModelError,
    quantize_layer,
)
from arrow_quant_v2._native import core  # noqa: E402
from arrow_quant_v2.calibration import time_boundaries  # noqa: E402
from arrow_quant_v2.torch import collect_activations, load_quantized, timestep  # noqa: E402
from arrow_quant_v2.torch.calibrate import load_float_model  # noqa: E402
from arrow_quant_v2.torch.integer import make_integer, make_segments, planes_of, segment_products  # noqa: E402
from arrow_quant_v2.torch.modules import PackedWeight  # noqa: E402
from arrow_quant_v2.torch.time_state import current_times  # noqa: E402
from helpers import write_safetensors  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

GROUPS = 5
NO_STATISTICS = "transformer_blocks.0.ff.net.2.weight"


def calls(count=5, batch=8):
    """Noise at times from all over the schedule; the eighth sample of each call is held out."""
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        yield {
            "hidden_states": torch.randn(batch, 1, 28, 28, generator=generator),
            "timestep": (torch.arange(batch) * 61 + i * 200) % 1000,
            "class_labels": torch.randint(0, 10, (batch,), generator=generator),
        }


@pytest.fixture(scope="module")
def statistics(demo_model):
    model = load_float_model(demo_model)
    layers = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {
        NO_STATISTICS
    }
    return collect_activations(model, calls(), time_boundaries(1000, GROUPS), layers=layers).statistics


def quantize(demo_model, statistics, path, **overrides):
    settings = {"num_time_groups": GROUPS, "group_size": 64, "rounding": "nearest", "min_accuracy": 0.0,
                "strategy_spatial": "never"}  # fmt: skip
    config = DiffusionQuantConfig(**{**settings, **overrides})
    return ArrowQuantV2().quantize_diffusion_model(demo_model, path, config, statistics)


@pytest.fixture(scope="module")
def result(tmp_path_factory, demo_model, statistics):
    return quantize(demo_model, statistics, tmp_path_factory.mktemp("q") / "int4", activation_range="min_max")


@pytest.fixture(scope="module")
def quantized(result):
    return result["quantized_path"]


@torch.no_grad()
def run(model, times, samples=2):
    x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(3))[:samples]
    labels = torch.tensor([1, 2, 3, 4])[:samples]
    return model(x, timestep=torch.as_tensor(times), class_labels=labels).sample


# ---- groups


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 100), st.floats(-10, 3000))
def test_groups_cover_every_timestep_once(steps, groups, time):
    boundaries = time_boundaries(float(steps), groups, steps)
    assert len(boundaries) - 1 == min(steps, groups)
    assert (boundaries[0], boundaries[-1]) == (0, steps)
    assert all(a < b for a, b in itertools.pairwise(boundaries))
    held_by = np.searchsorted(boundaries[1:-1], np.arange(steps), side="right")
    assert set(held_by) == set(range(len(boundaries) - 1))
    inner = torch.tensor(boundaries[1:-1], dtype=torch.float64)
    group = int(torch.bucketize(torch.tensor([time], dtype=torch.float64), inner, right=True))
    clipped = min(max(time, 0), np.nextafter(steps, 0))
    assert boundaries[group] <= clipped < boundaries[group + 1]


def test_a_thousand_steps_in_ten_groups():
    assert time_boundaries(1000, 10, 1000) == [100.0 * i for i in range(11)]


# ---- the file


def test_ranges_come_back_exactly(result, quantized, statistics):
    timed = {layer["name"] for layer in result["layers"] if (layer["activations"] or {}).get("method") == "time_aware"}
    tables = {t.name: t for t in QuantizedModel(quantized) if t.name in timed}
    assert len(tables) > 20
    inputs = dict(statistics.layers())
    for name, tensor in tables.items():
        assert tensor.time_boundaries == tuple(200.0 * i for i in range(GROUPS + 1))
        assert tensor.time_block_sizes == (64, 64, 64, *[min(256, tensor.shape[1])] * 2)
        (number,) = inputs["", name]
        scales, zeros = expected_min_max(statistics.input(number), tensor.time_block_sizes)
        np.testing.assert_array_equal(tensor.time_scales, scales)
        np.testing.assert_array_equal(tensor.time_zero_points, zeros)


def expected_min_max(seen, block_sizes):
    """The formula, in numpy float32."""
    scales, zeros = [], []
    for group, size in enumerate(block_sizes):
        moments = seen.channel_moments(group)
        for begin in range(0, seen.channels, size):
            low = min(np.float32(0), moments["min"][begin : begin + size].min())
            high = max(np.float32(0), moments["max"][begin : begin + size].max())
            scales.append(np.float32(high - low) / np.float32(255))
            zeros.append(-low / scales[-1])
    return np.array(scales, np.float32), np.clip(np.array(zeros, np.float32), 0, 255)


def test_other_readers_find_the_columns(quantized):
    (file,) = QuantizedModel(quantized).files
    rows = pq.read_table(file).to_pylist()
    row = next(r for r in rows if r["layer_name"].endswith("attn1.to_q.weight"))
    assert row["time_boundaries"] == [200.0 * i for i in range(GROUPS + 1)]
    old = json.loads(row["time_aware_quant_json"])
    assert old["enabled"] is True
    assert old["num_time_groups"] == GROUPS == len(old["time_group_params"])
    assert old["time_group_params"][1]["time_range"] == [200, 400]
    kept = next(r for r in rows if r["quant_type"] == "none")
    assert kept["time_scales"] is None
    assert kept["time_aware_quant_json"] is None


def test_the_report_tells_what_time_awareness_gains(result):
    made = [layer["activations"] for layer in result["layers"] if layer["activations"]]
    timed = [a for a in made if a["method"] == "time_aware"]
    assert len(timed) > 20
    # Where a group of few held-out rows has none to judge by, there is no figure.
    assert all(a["error"] <= a["shared_error"] for a in made if a["error"] is not None)
    assert sum(a["error"] is not None for a in timed) > 20
    assert all(0 < a["bits_per_weight"] < 0.1 for a in made)
    assert result["fallback_rate"]["time_aware"] == pytest.approx(1 - len(timed) / (len(made) + 1))


def test_layers_without_time_aware_ranges_are_recorded(result):
    steps = {f["layer"]: f for f in result["fallbacks"] if f["from_method"] == "time_aware"}
    assert steps[NO_STATISTICS]["to_method"] == "dynamic"
    assert "never reached" in steps[NO_STATISTICS]["cause"]
    shared = {layer["name"] for layer in result["layers"] if (layer["activations"] or {}).get("method") == "shared"}
    assert {name for name, f in steps.items() if f["to_method"] == "shared"} == shared
    assert all("held-out rows" in steps[name]["cause"] for name in shared)


@pytest.mark.parametrize("overrides", [{"num_time_groups": 1}, {"enable_time_aware": False}])
def test_one_range_where_time_awareness_is_off(tmp_path, demo_model, statistics, overrides):
    quantize(demo_model, statistics, tmp_path / "q", **overrides)
    tables = [t for t in QuantizedModel(tmp_path / "q") if t.time_scales.size]
    assert tables
    assert all(t.time_scales.size == 1 and t.time_boundaries == (0.0, 1000.0) for t in tables)


@pytest.mark.parametrize("overrides", [
    {"activation_range": "percentile"}, {"activation_range": "mse"}, {"time_grouping": "auto"},
    {"activation_block_early": 96, "activation_block_late": 32}, {"num_time_groups": 99},
])  # fmt: skip
def test_every_option_gives_a_model_that_runs(tmp_path, demo_model, statistics, overrides):
    quantize(demo_model, statistics, tmp_path / "q", **overrides)
    output = run(load_quantized(tmp_path / "q", torch.float32, activations="int8"), [10, 900])
    assert torch.isfinite(output).all()


# ---- arithmetic


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 700), st.integers(1, 9), st.sampled_from([16, 64, 100, 1000]),
    st.sampled_from([32, 64, 300]), st.integers(0, 99), st.booleans(),
)  # fmt: skip
def test_sums_are_those_of_int32(n, cols, rows, group, block, seed, extreme):
    rng = np.random.default_rng(seed)
    x = np.full((n, cols), 255) if extreme else rng.integers(-255, 256, (n, cols))
    w = np.full((rows, cols), 255) if extreme else rng.integers(0, 256, (rows, cols))
    segments = make_segments(cols, group, block)
    assert [s.begin for s in segments] == [0, *(s.end for s in segments[:-1])]
    assert segments[-1].end == cols
    products = segment_products(
        torch.from_numpy(x).float(), torch.from_numpy(w).float(), segments, torch.empty(n, rows)
    )
    for s, product in zip(segments, products, strict=True):
        assert (s.weight_group, s.block) == (s.begin // group, s.begin // block)
        assert (s.weight_group, s.block) == ((s.end - 1) // group, (s.end - 1) // block)
        want = x[:, s.begin : s.end].astype(np.int32) @ w[:, s.begin : s.end].T.astype(np.int32)
        np.testing.assert_array_equal(product.numpy(), want)


def layer_of(folder, module, bits=4, transposed=False):
    """A module's weight through a file, without ranges."""
    write_safetensors(folder / "m.safetensors", {"blocks.0.conv.weight": module.weight.detach().numpy()})
    config = DiffusionQuantConfig(
        bit_width=bits, group_size=32, min_accuracy=0.0, transposed_patterns=("conv",) if transposed else (),
        quantize_patterns=("conv",),
    )  # fmt: skip
    ArrowQuantV2("base").quantize_diffusion_model(folder / "m.safetensors", folder / "q", config)
    (stored,) = QuantizedModel(folder / "q")
    return stored


def with_ranges(stored, inputs, channels, block=4):
    """Two groups of ranges around +-3, different in every block."""
    count = 2 * inputs * -(-channels // block)
    rng = np.random.default_rng(0)
    return dataclasses.replace(
        stored, time_boundaries=(0.0, 0.5, 1.0), time_block_sizes=(block, block),
        time_scales=rng.uniform(0.02, 0.03, count).astype(np.float32),
        time_zero_points=rng.uniform(100, 150, count).astype(np.float32),
    )  # fmt: skip


def decoded(x, stored, group, inputs, bits, axis):
    """What codes of `bits` stand for, by the formula of the format."""
    channels = x.shape[axis] // inputs
    blocks = -(-channels // stored.time_block_sizes[group])
    at = np.concatenate([
        (group * inputs + i) * blocks + np.arange(channels) // stored.time_block_sizes[group] for i in range(inputs)
    ])  # fmt: skip
    shape = [-1 if d == axis % x.dim() else 1 for d in range(x.dim())]
    levels = 2**bits - 1
    scale = torch.from_numpy((stored.time_scales[at].astype(np.float64) * 255 / levels).astype(np.float32)).reshape(
        shape
    )
    zero = torch.from_numpy(np.rint(stored.time_zero_points[at].astype(np.float64) * levels / 255)).reshape(shape)
    steps = (x / scale).round().double()  # in float32, where a value between two codes falls to the same one
    return (steps + zero).clamp(0, levels).sub(zero).mul(scale)


KINDS = [
    (torch.nn.Linear(40, 12), 1),
    (torch.nn.Conv1d(8, 12, 3, padding=1), 1),
    (torch.nn.Conv2d(8, 12, 3, padding=1, stride=2), 1),
    (torch.nn.Conv2d(8, 12, 3, padding="same", groups=2), 2),
    (torch.nn.Conv2d(8, 12, 3, padding=1, padding_mode="circular", dilation=2), 1),
    (torch.nn.Conv3d(8, 12, 3), 1),
    (torch.nn.ConvTranspose1d(8, 12, 4, stride=2, padding=1), 1),
    (torch.nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, output_padding=1, groups=2), 1),
]


@pytest.mark.parametrize(("module", "inputs"), KINDS, ids=str)
@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_layers_compute_with_what_codes_stand_for(tmp_path, module, inputs, bits):
    linear = isinstance(module, torch.nn.Linear)
    transposed = "Transpose" in type(module).__name__
    channels = 40 if linear else 8 // inputs
    stored = with_ranges(layer_of(tmp_path, module, transposed=transposed), inputs, channels)
    weight = torch.from_numpy(np.array(stored.dequantize())).double()
    dims = 1 if linear else len(module.kernel_size)
    shape = (3, 5, 40) if linear else (3, 8, *[7] * dims)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    axis = -1 if linear else 1
    reference = type(module).forward
    integer = make_integer(copy.deepcopy(module), PackedWeight(stored, torch.float32), stored, bits, False)
    with timestep(integer, 0.7):
        got = integer(x)
    double = copy.deepcopy(module).double()
    double.weight.copy_(weight)
    want = reference(double, decoded(x, stored, 1, inputs, bits, axis))
    # Exact integers, then a few float32 multiplications and additions.
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_two_bit_residual_grids_and_dynamic_ranges(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((12, 100)).astype(np.float32)
    moment = np.eye(100, dtype=np.float32)
    layer = quantize_layer(weight, moment, 2, 32, "residual_binary")
    core.write_layer(
        str(tmp_path / "layer.parquet"), "layer.weight", [12, 100], 2, layer.group_size, layer.grid, layer.codes,
        layer.scales, layer.zero_points, layer.residual_scales, layer.column_scales,
    )  # fmt: skip
    (stored,) = QuantizedModel(tmp_path / "layer.parquet")
    x = torch.from_numpy(rng.standard_normal((7, 100)).astype(np.float32))
    integer = make_integer(torch.nn.Linear(100, 12, bias=False), PackedWeight(stored, torch.float32), stored, 8, True)
    want = x.double() @ torch.from_numpy(layer.dequantize()).double().T
    error = (integer(x).double() - want).norm() / want.norm()
    assert 1e-5 < error < 0.01  # rounding to a 255th of each row's range


def test_planes_add_up_to_the_weight(tmp_path):
    stored = layer_of(tmp_path, torch.nn.Linear(100, 6), bits=3)
    planes = planes_of(PackedWeight(stored, torch.float32))
    at = torch.arange(100) // 32
    value = planes.planes[0] * planes.factors[0][:, at] + planes.offset[:, at]
    np.testing.assert_allclose(value.numpy(), stored.dequantize(), rtol=1e-5, atol=1e-6)


# ---- the model


def test_fewer_bits_are_further_from_float(quantized):
    reference = run(load_quantized(quantized, torch.float32), [150, 850])
    errors = [
        (run(load_quantized(quantized, torch.float32, activations=a), [150, 850]) - reference).norm().item()
        for a in ("int8", "int6", "int4")
    ]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.1 * reference.norm().item()


def test_expanded_weights_give_the_same(quantized):
    packed = run(load_quantized(quantized, torch.float32, activations="int8"), [150, 850])
    kept = run(load_quantized(quantized, torch.float32, expand=True, activations="int8"), [150, 850])
    assert torch.equal(packed, kept)


def test_mixed_timesteps_work_per_sample(quantized):
    model = load_quantized(quantized, torch.float32, activations="int8")
    times = [10, 990, 450, 10]
    mixed = run(model, times, 4)
    # A value between two codes may fall to either, as the float parts of the model add in another order in another
    # batch; another group's ranges make a far larger difference.
    alone = torch.stack([run(model, [t] * 4, 4)[i] for i, t in enumerate(times)])
    float_model = load_quantized(quantized, torch.float32)
    rounding = (run(float_model, times, 4) - mixed).norm()
    assert (mixed - alone).norm() < 0.5 * rounding


@torch.no_grad()
def test_a_layer_takes_the_ranges_of_each_sample(quantized):
    model = load_quantized(quantized, torch.float32, activations="int8")
    layer = model.transformer_blocks[0].ff.net[0].proj
    x = 3 * torch.randn(4, 9, layer.in_features, generator=torch.Generator().manual_seed(0))
    times = [10, 990, 450, 10]
    with timestep(model, times):
        mixed, flat = layer(x), layer(x.flatten(0, 1))
    assert torch.equal(mixed.flatten(0, 1), flat)
    for i, t in enumerate(times):
        with timestep(model, t):
            # The same integers, scaled and added in the same order.
            torch.testing.assert_close(layer(x)[i], mixed[i], rtol=1e-5, atol=1e-5)
    with timestep(model, 990):
        assert (layer(x)[0] - mixed[0]).abs().max() > 1e-3


def test_each_thread_follows_its_own_time(quantized):
    model = load_quantized(quantized, torch.float32, activations="int8")
    times = [5, 995]
    alone = [run(model, [t, t]) for t in times]
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def work(i):
        for _ in range(4):
            found[i].append(run(model, [times[i]] * 2))

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (0, 1):
        assert len(found[i]) == 4
        assert all(torch.equal(output, alone[i]) for output in found[i])


@torch.no_grad()
def test_time_by_hand(quantized):
    model = load_quantized(quantized, torch.float32, activations="int8")
    layer = model.transformer_blocks[0].attn1.to_q
    x = torch.randn(2, 9, layer.in_features)
    with pytest.raises(ConfigurationError, match="timestep"):
        layer(x)
    with timestep(model, 990):
        late = layer(x)
    with timestep(model, [10, 990]):
        mixed = layer(x)
    assert not torch.equal(mixed[0], late[0])
    torch.testing.assert_close(mixed[1], late[1])
    with timestep(model, 5000):
        assert torch.equal(layer(x), late)  # beyond the schedule: the nearest group
    # Set by hand overrules the call.
    by_call = run(model, [10, 10])
    with timestep(model, 990):
        assert not torch.equal(run(model, [10, 10]), by_call)
    assert torch.equal(run(model, [10, 10]), by_call)
    with timestep(model, [1, 500, 990]), pytest.raises(ConfigurationError, match="do not fit"):
        layer(x)


def test_layers_without_ranges_are_named(quantized, caplog):
    with caplog.at_level(logging.WARNING, "arrow_quant_v2"):
        load_quantized(quantized, activations="int8")
    assert NO_STATISTICS in caplog.text


def test_what_cannot_be_done_is_refused(tmp_path, demo_model, quantized):
    with pytest.raises(ConfigurationError, match="int5"):
        load_quantized(quantized, activations="int5")
    ArrowQuantV2().quantize_diffusion_model(demo_model, tmp_path / "q", calibration="none")
    with pytest.raises(UnsupportedModelError, match="no ranges"):
        load_quantized(tmp_path / "q", activations="int8")


def test_a_call_that_records_gradients_gives_the_same(quantized):
    model = load_quantized(quantized, torch.float32, activations="int8")
    generator = torch.Generator().manual_seed(0)
    call = {
        "hidden_states": torch.randn(1, 1, 28, 28, generator=generator), "timestep": torch.tensor([400]),
        "class_labels": torch.tensor([3]),
    }  # fmt: skip
    with torch.no_grad():
        expected = model(**call).sample
    assert torch.equal(model(**call).sample.detach(), expected)


def test_a_failed_call_leaves_no_time_behind(quantized):
    model = load_quantized(quantized, torch.float32, activations="int8")
    with pytest.raises(Exception):  # noqa: B017, PT011
        model(torch.zeros(1, 1), timestep=torch.tensor([3]))
    assert current_times() is None


# ---- from one group to the next


def tables(path):
    return {t.name: t for t in QuantizedModel(path) if len(t.time_block_sizes) > 1}


def test_jumps_between_groups_are_scored_and_warned_of(tmp_path, demo_model, statistics):
    asked = {"thermodynamic": {"validation": {"enabled": True, "smoothness_threshold": 0.1, "log_violations": False}}}
    made = quantize(demo_model, statistics, tmp_path / "q", **asked)
    layers = [layer["activations"] for layer in made["layers"] if layer["activations"]]
    assert all(0 <= layer["smoothness"] <= 1 for layer in layers)
    jumping = sum(layer["jumps"] > 0 for layer in layers)
    assert jumping > 0
    (warning,) = (w for w in made["warnings"] if "jump by more than 0.1" in w)
    assert f"in {jumping} layers" in warning
    assert all(layer["activations"]["smoothness"] is None for layer in quiet_layers(demo_model, statistics, tmp_path))


def quiet_layers(demo_model, statistics, tmp_path):
    result = quantize(demo_model, statistics, tmp_path / "quiet")
    return [layer for layer in result["layers"] if layer["activations"]]


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "sigmoid"])
def test_ranges_go_over_from_group_to_group(tmp_path, demo_model, statistics, quantized, interpolation):
    smoothing = {"enabled": True, "window_size": 3, "interpolation": interpolation}
    quantize(
        demo_model,
        statistics,
        tmp_path / "q",
        activation_range="min_max",
        thermodynamic={"boundary_smoothing": smoothing},
    )
    plain, smooth = tables(quantized), tables(tmp_path / "q")
    assert set(plain) == set(smooth)
    for name, table in smooth.items():
        assert len(table.time_block_sizes) == GROUPS + (GROUPS - 1) * 6
        assert table.time_boundaries[1:8] == (197.0, 198.0, 199.0, 200.0, 201.0, 202.0, 203.0), name
    model = load_quantized(tmp_path / "q", torch.float32, activations="int8")
    steps = [run(model, [t, t]) for t in (190, 198, 199, 200, 201, 210)]
    assert all(torch.isfinite(step).all() for step in steps)
    mixed = run(model, [199, 600])
    assert torch.allclose(mixed[0], steps[2][0], atol=1e-3)


def test_a_penalty_on_jumps_widens_ranges_and_makes_them_smoother(tmp_path, demo_model, statistics, quantized):
    penalty = {"enabled": True, "markov_weight": 2.0, "learning_rate": 0.1}
    quantize(
        demo_model,
        statistics,
        tmp_path / "q",
        activation_range="min_max",
        thermodynamic={"transition_optimization": penalty},
    )
    plain, damped = tables(quantized), tables(tmp_path / "q")
    both = set(plain) & set(damped)
    assert len(both) > 20
    for name in both:
        assert (damped[name].time_scales >= plain[name].time_scales * (1 - 1e-6)).all(), name
        np.testing.assert_array_equal(damped[name].time_zero_points, plain[name].time_zero_points)
    assert any((damped[name].time_scales > plain[name].time_scales * 1.02).any() for name in both)
