"""Activation statistics from hooks to the quantized model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from arrow_quant_v2 import (
    ArrowQuantV2,
    ConfigurationError,
    CorruptFileError,
    DiffusionQuantConfig,
    MetadataError,
    ModelNotFoundError,
    ShapeMismatchError,
    ValidationError,
)
from arrow_quant_v2._native import core
from arrow_quant_v2.calibration import load_statistics, model_fingerprint
from helpers import write_safetensors

torch = pytest.importorskip("torch")
from arrow_quant_v2.torch import ActivationCollector, collect_activations  # noqa: E402
from arrow_quant_v2.torch.unfold import input_rows, row_blocks, row_width  # noqa: E402
from torch import nn  # noqa: E402

BASE = ArrowQuantV2("base")
RNG = np.random.default_rng(0)


def config(**given):
    return DiffusionQuantConfig(**{"bit_width": 4, "group_size": 32, "min_accuracy": 0.0, **given})


# ---- rows


CONVOLUTIONS = [
    nn.Conv1d(6, 4, 3, padding=1),
    nn.Conv1d(6, 4, 4, stride=2, dilation=2, padding_mode="reflect", padding=2),
    nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)),
    nn.Conv2d(4, 6, 3, padding="same", groups=2),
    nn.Conv2d(4, 4, 3, groups=4),
    nn.Conv3d(2, 3, (2, 3, 1), padding=(1, 1, 0)),
]


@pytest.mark.parametrize("module", CONVOLUTIONS, ids=str)
def test_rows_times_the_weight_are_the_convolution(module):
    x = torch.randn(2, module.in_channels, *(7, 6, 5)[: len(module.kernel_size)])
    blocks = input_rows(module, x, 1 << 30)
    assert len(blocks) == row_blocks(module)
    weights = module.weight.reshape(module.out_channels, -1).chunk(module.groups)
    made = torch.cat([rows @ w.T for rows, w in zip(blocks, weights, strict=True)], 1)
    want = nn.Module.__call__(module, x).movedim(1, -1).reshape(-1, module.out_channels) - module.bias
    assert all(rows.shape[1] == row_width(module) for rows in blocks)
    torch.testing.assert_close(made, want, rtol=1e-4, atol=1e-5)  # float32 sums in another order


TRANSPOSED = [
    nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1, output_padding=1),
    nn.ConvTranspose2d(4, 3, (3, 2), stride=(2, 3), padding=(1, 0)),
    nn.ConvTranspose2d(3, 2, 4, dilation=2),
    nn.ConvTranspose3d(2, 3, 2, stride=2),
]


@pytest.mark.parametrize("module", TRANSPOSED, ids=str)
def test_rows_of_a_transposed_convolution(module):
    x = torch.randn(2, module.in_channels, *(5, 4, 3)[: len(module.kernel_size)])
    (rows,) = input_rows(module, x, 1 << 30)
    matrix = module.weight.movedim(1, 0).reshape(module.out_channels, -1)
    want = module(x).movedim(1, -1).reshape(-1, module.out_channels) - module.bias
    torch.testing.assert_close(rows @ matrix.T, want, rtol=1e-4, atol=1e-5)


def test_a_grouped_transposed_convolution_has_the_energy_of_its_groups():
    module = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False)
    x = torch.randn(2, 4, 4, 4)
    (rows,) = input_rows(module, x, 1 << 30)
    matrix = module.weight.movedim(1, 0).reshape(3, -1)  # [out / groups, in * kernel]
    assert rows.shape[1] == row_width(module) == matrix.shape[1]
    torch.testing.assert_close(((rows @ matrix.T) ** 2).sum(), (module(x) ** 2).sum(), rtol=1e-4, atol=1e-4)


def test_large_convolutions_are_thinned():
    module = nn.Conv2d(4, 6, 3)
    (rows,) = input_rows(module, torch.randn(2, 4, 40, 40), 10_000)
    assert rows.numel() <= 10_000
    assert len(rows) > 100


# ---- collecting


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.proj, self.never = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, sample, timestep):
        return self.proj(self.q(sample) * torch.sigmoid(self.k(sample)))


def calls(count=32, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        yield {"sample": torch.randn(batch, 8, 32, generator=generator), "timestep": torch.full((batch,), i * 30)}


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(0)
    return Attention().eval()


@pytest.fixture(scope="module")
def collected(attention):
    return collect_activations(attention, calls(), [0, 500, 1000])


def test_layers_that_read_one_tensor_share_an_input(collected):
    layers = {name: inputs for (_, name), inputs in collected.statistics.layers()}
    assert layers["q.weight"] == layers["k.weight"] != layers["proj.weight"]
    assert "never.weight" not in layers
    assert collected.reached == {"q.weight", "k.weight", "proj.weight"}


def test_moments_are_those_of_the_samples(attention, collected):
    kept = [c["sample"][j] for i, c in enumerate(calls()) for j in range(4) if (4 * i + j) % 8 != 7]
    rows = torch.cat(kept).double()
    (number,) = dict((n, i) for (_, n), i in collected.statistics.layers())["q.weight"]
    got = collected.statistics.input(number)
    np.testing.assert_allclose(got.second_moment(), (rows.T @ rows / len(rows)).numpy(), atol=1e-4)
    assert got.count(0) + got.count(1) == len(rows)
    np.testing.assert_allclose(got.timesteps()["time"], np.arange(32) * 30.0)
    assert [len(got.held_out(group)) for group in (0, 1)] == [64, 64]  # eight samples of eight rows each


def test_samples_of_one_batch_may_have_different_times(attention):
    batch = {"sample": torch.randn(6, 2, 32), "timestep": torch.tensor([10, 10, 900, 900, 20, 700])}
    one = collect_activations(attention, [batch], [0, 500, 1000])
    single = [{"sample": batch["sample"][i : i + 1], "timestep": batch["timestep"][i : i + 1]} for i in range(6)]
    many = collect_activations(attention, single, [0, 500, 1000])
    for group in (0, 1):
        assert one.statistics.input(0).count(group) == many.statistics.input(0).count(group) == 6
    np.testing.assert_allclose(
        one.statistics.input(0).second_moment(), many.statistics.input(0).second_moment(), atol=1e-5
    )


def test_the_time_may_come_from_a_function_or_from_the_masked_share(attention):
    given = collect_activations(attention, calls(4), [0, 1, 2], time_of=lambda args, kwargs: 1.5)
    assert given.statistics.input(0).count(0) == 0

    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.layer = nn.Embedding(10, 16), nn.Linear(16, 16)

        def forward(self, input_ids):
            return self.layer(self.embedding(input_ids))

    tokens = torch.tensor([[9, 9, 9, 9], [9, 1, 2, 3]])
    language = collect_activations(Language(), [{"input_ids": tokens}], [0, 0.5, 1], mask_token_id=9)
    assert language.statistics.input(0).count(0) == 4
    assert language.statistics.input(0).count(1) == 4


def test_bfloat16_models_are_measured_as_they_are():
    layer = nn.Linear(16, 4, dtype=torch.bfloat16)
    x = torch.randn(5, 16, dtype=torch.bfloat16)
    got = collect_activations(nn.Sequential(layer), [x])
    want = (x.float().T @ x.float() / 5).numpy()
    np.testing.assert_allclose(got.statistics.input(0).second_moment(), want, atol=1e-5)


def test_an_empty_data_set_is_an_error(attention):
    with pytest.raises(ConfigurationError, match="no samples"):
        collect_activations(attention, [])


def test_hooks_leave_with_the_context(attention):
    with ActivationCollector(attention, [0, 1000]):
        pass
    assert not attention._forward_pre_hooks
    assert not attention.q._forward_pre_hooks


# ---- quantizing


def save(model, path):
    path.mkdir()
    tensors = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    write_safetensors(path / "model.safetensors", tensors)
    return path


@pytest.fixture
def source(tmp_path, attention):
    return save(attention, tmp_path / "m")


def by_name(result):
    return {layer["name"]: layer for layer in result["layers"]}


def test_activations_make_outputs_better(tmp_path, source, attention, collected):
    x = torch.randn(64, 32) * torch.linspace(0.05, 5, 32)
    loud = collect_activations(attention, [{"sample": x[None], "timestep": 1} for _ in range(9)], [0, 1000])
    with_them = BASE.quantize_diffusion_model(source, tmp_path / "a", config(), calibration=loud)
    without = BASE.quantize_diffusion_model(source, tmp_path / "n", config(), calibration="none")
    assert with_them["calibration"] == "activations"
    assert without["calibration"] == "none"
    assert by_name(with_them)["q.weight"]["method"] == "ldlq"
    from arrow_quant_v2.torch import load_state_dict

    q = attention.q.weight.detach()
    errors = [((x @ (q - load_state_dict(tmp_path / d)["q.weight"]).T) ** 2).sum() for d in "an"]
    assert errors[0] < 0.6 * errors[1]


def test_held_out_figures_are_those_of_the_file(tmp_path, source, attention, collected):
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config(), calibration=collected)
    layer = by_name(result)["proj.weight"]
    from arrow_quant_v2.torch import load_state_dict

    (number,) = dict((n, i) for (_, n), i in collected.statistics.layers())["proj.weight"]
    rows = np.concatenate([collected.statistics.input(number).held_out(g) for g in (0, 1)])
    y = rows @ attention.proj.weight.detach().numpy().T
    e = y - rows @ load_state_dict(tmp_path / "q")["proj.weight"].numpy().T
    assert layer["output_sqnr_db"] == pytest.approx(10 * np.log10((y**2).sum() / (e**2).sum()), abs=0.05)
    assert [g["rows"] for g in layer["time_groups"]] == [
        len(collected.statistics.input(number).held_out(g)) for g in (0, 1)
    ]


def test_a_layer_that_no_sample_reaches_is_listed(tmp_path, source, collected):
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config(), calibration=collected)
    steps = [(step["from_method"], step["to_method"]) for step in result["fallbacks"]]
    assert steps == [("ldlq", "min_max"), ("shared", "dynamic")]  # of the weight, and of the ranges of its input
    for step in result["fallbacks"]:
        assert step["layer"] == "never.weight"
        assert "never reached" in step["cause"]
    assert result["layers_fallen_back"] == 1
    assert result["fallback_rate"]["ldlq"] == 0.25
    with pytest.raises(ValidationError, match="never reached"):
        BASE.quantize_diffusion_model(source, tmp_path / "f", config(fail_fast=True), calibration=collected)


AWKWARD = {
    "rank_1": lambda n: np.outer(RNG.standard_normal(n), RNG.standard_normal(32)),
    "dead_channels": lambda n: RNG.standard_normal((n, 32)) * (np.arange(32) % 3 > 0),
    "duplicate_columns": lambda n: np.repeat(RNG.standard_normal((n, 16)), 2, 1),
    "few_rows": lambda n: RNG.standard_normal((5, 32)),
    "one_outlier": lambda n: np.where(np.arange(n)[:, None] == 3, 6e4, RNG.standard_normal((n, 32))),
    "tiny": lambda n: RNG.standard_normal((n, 32)) * 1e-18,
}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_activations_give_finite_weights(tmp_path, source, attention, kind, bits):
    statistics = core.ActivationStatistics([0.0, 1.0])
    number = statistics.add_input(32)
    for name in ("q", "k", "proj", "never"):
        statistics.map_layer("", f"{name}.weight", [number])
    statistics.update(number, np.ascontiguousarray(AWKWARD[kind](200), np.float32), 0.5)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config(bit_width=bits), calibration=statistics)
    from arrow_quant_v2.torch import load_state_dict

    for name, value in load_state_dict(tmp_path / "q").items():
        assert torch.isfinite(value).all(), name
    floor = {2: 0.8, 4: 0.98, 8: 0.9999}[bits]  # far below what is reached; a broken layer is near 0
    for layer in result["layers"]:
        assert layer["output_cosine"] > floor
        assert layer["cosine"] > floor - 0.35
        assert layer["dampening"] > 0 or layer["method"] != "ldlq"


def test_all_zero_activations_are_a_recorded_fallback(tmp_path, source):
    statistics = core.ActivationStatistics([0.0, 1.0])
    number = statistics.add_input(32)
    statistics.map_layer("", "q.weight", [number])
    statistics.update(number, np.zeros((50, 32), np.float32), 0.5)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config(), calibration=statistics)
    causes = {step["layer"]: step["cause"] for step in result["fallbacks"]}
    assert causes["q.weight"] == "activations are all zero"
    assert by_name(result)["q.weight"]["method"] == "min_max"


@pytest.mark.parametrize("size", [1e18, 1e30])
def test_activations_too_large_for_their_second_moment_are_a_recorded_fallback(tmp_path, source, size):
    statistics = core.ActivationStatistics([0.0, 1.0])
    number = statistics.add_input(32)
    statistics.map_layer("", "q.weight", [number])
    statistics.update(number, (size * RNG.standard_normal((50, 32))).astype(np.float32), 0.5)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config(), calibration=statistics)
    assert any("overflow their second moment" in step["cause"] for step in result["fallbacks"])
    assert by_name(result)["q.weight"]["method"] == "min_max"


def test_rows_with_nan_are_left_out(tmp_path, source, attention):
    poisoned = [{"sample": torch.randn(8, 4, 32), "timestep": 1} for _ in range(4)]
    poisoned[1]["sample"][3, 2, 5] = torch.nan
    got = collect_activations(attention, poisoned, [0, 1000])
    assert got.statistics.input(0).non_finite_rows == 1
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config(), calibration=got)
    assert by_name(result)["q.weight"]["output_cosine"] > 0.99
    assert any("NaN" in warning and "q.weight" in warning for warning in result["warnings"])


def test_activations_of_other_channels_are_a_recorded_fallback(tmp_path, source):
    statistics = core.ActivationStatistics([0.0, 1.0])
    number = statistics.add_input(16)
    statistics.map_layer("", "q.weight", [number])
    statistics.update(number, RNG.standard_normal((50, 16)).astype(np.float32), 0.5)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config(), calibration=statistics)
    assert any("16 channels, the layer 32" in step["cause"] for step in result["fallbacks"])


def test_output_cosine_decides_where_there_are_activations(tmp_path, source, collected):
    settings = config(bit_width=2, min_accuracy=0.995)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", settings, calibration=collected)
    steps = [step for step in result["fallbacks"] if step["layer"] == "q.weight"]
    assert steps
    assert steps[0]["cause"].startswith("output cosine")
    assert steps[0]["cosine_after"] >= steps[0]["cosine_before"]
    assert by_name(result)["q.weight"]["output_cosine"] >= 0.995


def test_threads_do_not_change_a_byte(tmp_path, source, collected):
    for threads in (1, 2):
        BASE.quantize_diffusion_model(
            source, tmp_path / str(threads), config(num_threads=threads), calibration=collected
        )
    one, two = ((tmp_path / t / "model.parquet").read_bytes() for t in "12")
    assert one == two


def test_grouped_and_transposed_convolutions_are_calibrated(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.SiLU(), nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(8, 6, 3)
    ).eval()
    source = save(model, tmp_path / "m")
    got = collect_activations(model, [torch.randn(2, 4, 9, 9) for _ in range(8)])
    settings = config(quantize_patterns=["."], transposed_patterns=["^2\\.weight$"], group_size=16)
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", settings, calibration=got)
    layers = by_name(result)
    for name in ("0.weight", "2.weight", "3.weight"):
        assert layers[name]["method"] == "ldlq", name
        assert layers[name]["output_cosine"] > 0.99, name


# ---- files


def saved(tmp_path, source, collected, facts=None):
    path = tmp_path / "a.parquet"
    facts = {"kind": "activations", "model_fingerprint": model_fingerprint(source)} if facts is None else facts
    collected.statistics.save(str(path), json.dumps(facts))
    return path


def test_a_file_gives_the_bytes_of_the_statistics(tmp_path, source, collected):
    path = saved(tmp_path, source, collected)
    BASE.quantize_diffusion_model(source, tmp_path / "f", config(), calibration=path)
    BASE.quantize_diffusion_model(source, tmp_path / "m1", config(), calibration=collected)
    assert (tmp_path / "f" / "model.parquet").read_bytes() == (tmp_path / "m1" / "model.parquet").read_bytes()


def test_a_file_in_the_model_folder_is_found(tmp_path, source, collected):
    saved(tmp_path, source, collected).rename(source / "activation_statistics.parquet")
    result = BASE.quantize_diffusion_model(source, tmp_path / "q", config())
    assert result["calibration"] == "activations"
    assert "activation_statistics.parquet" in result["calibration_reason"]
    assert not (tmp_path / "q" / "activation_statistics.parquet").exists()


def test_the_cache_of_another_model_is_refused(tmp_path, source, collected):
    path = saved(tmp_path, source, collected)
    other = save(Attention(), tmp_path / "other")
    with pytest.raises(ConfigurationError, match="another model"):
        load_statistics(path, other)


def test_a_copy_of_a_model_keeps_its_cache(tmp_path, source, attention, collected):
    path = saved(tmp_path, source, collected)
    assert load_statistics(path, save(attention, tmp_path / "copy")) is not None


def test_files_that_are_no_statistics(tmp_path, source):
    with pytest.raises(ModelNotFoundError, match="calibrate"):
        load_statistics(tmp_path / "none.parquet", source)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(CorruptFileError):
        load_statistics(tmp_path / "x.parquet", source)


def test_statistics_of_two_halves_merge_to_the_whole(attention):
    whole = collect_activations(attention, calls(8), [0, 1000], held_out_rows=0)
    first = collect_activations(attention, list(calls(8))[:4], [0, 1000], held_out_rows=0)
    second = collect_activations(attention, list(calls(8))[4:], [0, 1000], held_out_rows=0)
    first.statistics.merge(second.statistics)
    np.testing.assert_allclose(
        first.statistics.input(0).second_moment(), whole.statistics.input(0).second_moment(), atol=1e-5
    )
    with pytest.raises(ShapeMismatchError):
        first.statistics.merge(collect_activations(attention, calls(2), [0, 5]).statistics)


def test_without_a_runnable_model_weights_only_and_a_warning(tmp_path, source):
    (source / "metadata.json").write_text('{"modality": "image"}')
    result = ArrowQuantV2().quantize_diffusion_model(source, tmp_path / "q", config())
    assert result["calibration"] == "none"
    assert any("weights only" in warning for warning in result["warnings"])
    with pytest.raises(MetadataError, match=r"config\.json"):
        ArrowQuantV2().quantize_diffusion_model(source, tmp_path / "s", config(calibration="synthetic"))
