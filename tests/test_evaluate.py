"""Quantized models by what they make, and the check of the whole model."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import types

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

import numpy as np  # noqa: E402
from arrow_quant_v2 import (  # noqa: E402
    ArrowQuantV2,
    AsyncArrowQuantV2,
    CancelledError,
    ConfigurationError,
    DiffusionQuantConfig,
    MetadataError,
    ShapeMismatchError,
    UnsupportedModelError,
)
from arrow_quant_v2.cli.main import main  # noqa: E402
from arrow_quant_v2.torch import evaluate, load_quantized  # noqa: E402
from arrow_quant_v2.torch.calibrate import load_float_model  # noqa: E402
from arrow_quant_v2.torch.evaluation import text as text_module  # noqa: E402
from arrow_quant_v2.torch.evaluation.forward import Inputs, check_forward  # noqa: E402
from arrow_quant_v2.torch.evaluation.outputs import OutputErrors, root_probabilities  # noqa: E402
from arrow_quant_v2.torch.evaluation.pair import held_out_seed, load_pair  # noqa: E402
from arrow_quant_v2.torch.evaluation.pictures import PictureFigures, psnr_db, ssim  # noqa: E402
from arrow_quant_v2.torch.evaluation.sound import log_spectral_distance  # noqa: E402

STEPS, MASK = 5, 256
Q = ArrowQuantV2()


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("arrow_quant_v2.torch.synthetic.TRAJECTORY_STEPS", STEPS)
    monkeypatch.setattr("arrow_quant_v2.torch.synthetic.UNMASKING_STEPS", STEPS)


def save(model, path, modality, **facts):
    model.save_pretrained(path)
    (path / "metadata.json").write_text(json.dumps({"modality": modality, **facts}))
    return path


def quantized(source, path, bits=8, calibration="none", **options):
    options = {"group_size": 16, "min_accuracy": 0.0, "num_time_groups": 2, "calibration_samples": 4, **options}
    Q.quantize_diffusion_model(source, path, DiffusionQuantConfig(bit_width=bits, **options), calibration=calibration)
    return path


def tiny_dit(channels=3, **options):
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=channels, num_layers=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=5, **options,
    )  # fmt: skip


def tiny_sound():
    torch.manual_seed(0)
    return diffusers.UNet1DModel(
        sample_size=64, in_channels=2, out_channels=2, block_out_channels=(32, 32), extra_in_channels=64,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"), up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    )  # fmt: skip


def tiny_text():
    settings = transformers.BertConfig(
        vocab_size=258, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(settings)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    save(tiny_dit(), path / "m", "image")
    return path / "m", quantized(path / "m", path / "q8"), quantized(path / "m", path / "q2", 2)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    save(tiny_text(), path / "m", "text", mask_token_id=MASK, sequence_length=16)
    return path / "m", quantized(path / "m", path / "q8"), quantized(path / "m", path / "q2", 2)


# ---- figures


def gaussian():
    weights = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights)
    return window / window.sum()


def ssim_by_loops(x, y, spread):
    """Equation 13 at each place, with weighted moments of the window."""
    w, c1, c2, values = gaussian(), (0.01 * spread) ** 2, (0.03 * spread) ** 2, []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


def test_ssim_is_that_of_its_equation():
    x = torch.randn(2, 1, 14, 13, generator=torch.Generator().manual_seed(0))
    y = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    spread = torch.tensor([2.0, 3.0])
    want = [ssim_by_loops(x[i, 0].double().numpy(), y[i, 0].double().numpy(), float(spread[i])) for i in range(2)]
    assert np.allclose(ssim(x, y, spread), want, rtol=1e-9)
    assert torch.allclose(ssim(x, x, spread), torch.ones(2, dtype=torch.float64))


def test_ssim_of_pictures_smaller_than_its_window():
    x = torch.randn(1, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    assert float(ssim(x, x, torch.tensor([2.0]))) == pytest.approx(1)
    assert float(ssim(x, x.flip(3), torch.tensor([2.0]))) < 0.5
    assert float(ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1))) == 1


def test_psnr_of_a_constant_error():
    figures = PictureFigures(pictures=True, rgb=False)
    figures.add(torch.zeros(1, 1, 12, 12), torch.full((1, 1, 12, 12), 0.1))
    figures.add(torch.ones(1, 1, 12, 12), torch.full((1, 1, 12, 12), 7.0))  # is cut to 1
    values, _ = figures.figures()
    assert values["psnr_db_by_sample"] == pytest.approx([20 * math.log10(20), 200])
    assert values["psnr_db"] == pytest.approx(20 * math.log10(20) + 10 * math.log10(2))
    assert psnr_db(0.25, 1.0) == pytest.approx(10 * math.log10(4))


def test_latents_have_the_range_of_the_float_model():
    figures = PictureFigures(pictures=False, rgb=False)
    want = torch.linspace(-4, 6, 4 * 64).reshape(1, 4, 8, 8)
    figures.add(want, want + 1)
    assert figures.figures()[0]["psnr_db"] == pytest.approx(20, abs=1e-4)


def test_figures_of_samples_that_are_not_finite_say_so():
    figures = PictureFigures(pictures=True, rgb=False)
    figures.add(torch.zeros(1, 1, 12, 12), torch.full((1, 1, 12, 12), torch.nan))
    values, missing = figures.figures()
    assert values["psnr_db"] is None
    assert "NaN" in missing["psnr_db"]


def test_log_spectral_distance_of_a_louder_sound():
    x = torch.randn(2, 2, 3000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(log_spectral_distance(x, 10 * x), torch.full((2,), 20.0, dtype=torch.float64))
    assert float(log_spectral_distance(x, x).max()) == 0
    assert torch.isfinite(log_spectral_distance(torch.zeros(1, 1, 40), torch.zeros(1, 1, 40))).all()


def test_output_errors_by_time():
    errors = OutputErrors()
    errors.add(torch.tensor([3.0, 1.0]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    errors.add(torch.tensor([3.0]), torch.tensor([[0.0, 5.0]]), torch.tensor([[0.0, 0.0]]))
    found = errors.figures()
    assert [row["time"] for row in found["by_time"]] == [3, 1]
    assert [row["relative_squared_error"] for row in found["by_time"]] == [0.5, 2.0]
    assert found["relative_squared_error"] == 1.25
    assert (found["min_cosine"], found["worst_time"]) == (0.0, 1)
    assert found["cosine"] == pytest.approx(25 / math.sqrt(51 * 26))


def test_many_times_are_put_together():
    errors = OutputErrors()
    errors.add(torch.arange(100.0), torch.ones(100, 2), torch.full((100, 2), 2.0))
    rows = errors.figures(4)["by_time"]
    assert [row["time"] for row in rows] == pytest.approx([87, 62, 37, 12], abs=1)
    assert sum(row["samples"] for row in rows) == 100


def test_outputs_that_are_not_finite_have_no_cosine():
    errors = OutputErrors()
    errors.add(torch.tensor([3.0, 1.0]), torch.ones(2, 2), torch.tensor([[1.0, torch.inf], [1.0, 1.0]]))
    found = errors.figures()
    assert (found["relative_squared_error"], found["cosine"], found["min_cosine"], found["worst_time"]) == (
        None,
        0,
        0,
        3,
    )


def test_probabilities_do_not_see_a_shift_nor_the_mask():
    logits, tokens = torch.randn(1, 4, 6), torch.tensor([[5, 1, 5, 2]])
    other = logits + 3
    other[..., 5] = 100
    assert torch.allclose(root_probabilities(logits, tokens, 5), root_probabilities(other, tokens, 5), atol=1e-6)
    squares = root_probabilities(logits, tokens, 5).square().sum(-1)
    assert torch.allclose(squares, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))


# ---- pictures


def test_fewer_bits_make_worse_pictures(pictures):
    source, eight, two = pictures
    good, bad = evaluate(source, eight, samples=3), evaluate(source, two, samples=3)
    assert good["kind"] == "image"
    assert good["psnr_db"] > bad["psnr_db"] + 10
    assert good["ssim"] > bad["ssim"]
    assert good["output_error"]["relative_squared_error"] < bad["output_error"]["relative_squared_error"] / 10
    assert len(good["output_error"]["by_time"]) == good["steps"] == STEPS
    json.dumps(good, allow_nan=False)


def test_a_seed_gives_the_same_figures(pictures):
    source, _, two = pictures
    first = evaluate(source, two, samples=2, seed=3)
    assert evaluate(source, two, samples=2, seed=3) == first
    assert evaluate(source, two, samples=2, seed=4)["psnr_db"] != first["psnr_db"]


@torch.no_grad()
def test_errors_are_those_along_the_float_models_trajectory(pictures):
    """By a sampler of the test's own."""
    source, _, two = pictures
    found = evaluate(source, two, samples=2)
    reference, model = load_float_model(source), load_quantized(two, dtype=torch.float32)
    generator = torch.Generator().manual_seed(held_out_seed(0))
    start = torch.randn(2, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 5, (2,), generator=generator)
    results, errors = [], []
    for leader in (reference, model):
        scheduler, x = diffusers.DDIMScheduler(clip_sample=False), start
        scheduler.set_timesteps(STEPS)
        for t in scheduler.timesteps:
            want, got = (m(x, timestep=t.expand(2), class_labels=labels).sample for m in (reference, model))
            if leader is reference:
                errors.append(float((want - got).square().sum() / want.square().sum()))
            x = scheduler.step(want if leader is reference else got, t, x).prev_sample
        results.append(x.clamp(-1, 1))
    rows = found["output_error"]["by_time"]
    assert [row["relative_squared_error"] for row in rows] == pytest.approx(errors, rel=1e-4)
    mse = float((results[0] - results[1]).square().mean())
    assert found["psnr_db"] == pytest.approx(10 * math.log10(4 / mse), abs=1e-3)


def test_data_give_the_output_error(pictures):
    source, eight, _ = pictures
    rows = [{"latent": np.zeros((3, 8, 8), np.float32), "label": 1}]
    found = evaluate(source, eight, samples=2, data=rows)
    assert found["error_source"] != "synthetic"
    assert sum(row["samples"] for row in found["output_error"]["by_time"]) == 2
    assert found["psnr_db"] > 20


def test_latents_are_told_from_pictures(tmp_path, pictures):
    save(tiny_dit(channels=4), tmp_path / "m", "image")
    found = evaluate(tmp_path / "m", quantized(tmp_path / "m", tmp_path / "q"), samples=1)
    assert found["kind"] == "latent"
    assert "three channels" in found["missing"]["lpips"]


def test_perceptual_figures_say_why_they_are_missing(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    source, eight, _ = pictures
    found = evaluate(source, eight, samples=1)
    assert found["lpips"] is None
    assert found["fid"] is None
    assert "pip install" in found["missing"]["lpips"]


def test_perceptual_figures_come_from_torchmetrics(pictures, monkeypatch):
    class Lpips:
        def update(self, got, want):
            assert got.shape == want.shape == (1, 3, 8, 8)

        def compute(self):
            return torch.tensor(0.25)

    class Fid:
        def __init__(self, normalize):
            assert normalize

        def update(self, pictures, real):
            assert float(pictures.min()) >= 0

        def compute(self):
            raise RuntimeError("more than one sample is required")

    modules = {
        "torchmetrics": types.ModuleType("torchmetrics"), "torchmetrics.image": types.ModuleType("torchmetrics.image"),
        "torchmetrics.image.lpip": types.SimpleNamespace(LearnedPerceptualImagePatchSimilarity=Lpips),
        "torchmetrics.image.fid": types.SimpleNamespace(FrechetInceptionDistance=Fid),
    }  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    source, eight, _ = pictures
    found = evaluate(source, eight, samples=1)
    assert found["lpips"] == 0.25
    assert found["fid"] is None
    assert "more than one sample" in found["missing"]["fid"]


def test_integer_activations_can_be_evaluated(tmp_path, pictures):
    source, eight, _ = pictures
    calibrated = quantized(source, tmp_path / "q", calibration="synthetic")
    found = evaluate(source, calibrated, samples=1, activations="int8")
    assert 0 < found["output_error"]["relative_squared_error"] < 0.1
    with pytest.raises(UnsupportedModelError, match="no ranges"):
        evaluate(source, eight, samples=1, activations="int8")


# ---- sounds


def test_sounds_have_a_log_spectral_distance(tmp_path):
    save(tiny_sound(), tmp_path / "m", "audio")
    good = evaluate(tmp_path / "m", quantized(tmp_path / "m", tmp_path / "q8"), samples=2)
    bad = evaluate(tmp_path / "m", quantized(tmp_path / "m", tmp_path / "q2", 2), samples=2)
    assert good["kind"] == "audio"
    assert 0 < good["log_spectral_distance_db"] < bad["log_spectral_distance_db"]


# ---- text


@torch.no_grad()
def test_text_figures_are_those_of_a_loop(text, monkeypatch):
    """One mask ratio at the same windows and masks, from the definitions."""
    source, _, two = text
    monkeypatch.setattr(text_module, "MASK_RATIOS", (0.5,))
    rows = [{"input_ids": list(range(16))}, {"input_ids": list(range(40, 56))}]
    found = evaluate(source, two, samples=2, data=rows)
    pair, windows = load_pair(source, two), torch.tensor([row["input_ids"] for row in rows])
    generator = torch.Generator().manual_seed(held_out_seed(0) + 500)
    masked = torch.stack([text_module.masked_window(window, 0.5, MASK, generator) for window in windows])
    assert (masked == MASK).sum(1).tolist() == [8, 8]
    sums = np.zeros(4)
    for i, j in (masked == MASK).nonzero().tolist():
        p, q = (m(input_ids=masked).logits[i, j].double().numpy().copy() for m in (pair.reference, pair.candidate))
        p[MASK] = q[MASK] = -np.inf
        p, q = (np.exp(v) / np.exp(v).sum() for v in (p, q))
        seen, token = p > 0, windows[i, j]
        kl = (p[seen] * np.log(p[seen] / q[seen])).sum()
        sums += [-np.log(p[token]), -np.log(q[token]), kl, p.argmax() != q.argmax()]
    keys = ("nelbo_float", "nelbo_quantized", "kl", "flip_rate")
    assert [found[key] for key in keys] == pytest.approx(sums / 16, rel=1e-3)


def test_text_without_data_is_the_float_models_own(text):
    source, eight, two = text
    good, bad = evaluate(source, eight, samples=3), evaluate(source, two, samples=3)
    assert good == evaluate(source, eight, samples=3)
    assert good["nelbo_float"] == bad["nelbo_float"]
    assert 0 < good["kl"] < bad["kl"]
    assert good["flip_rate"] <= bad["flip_rate"]
    assert [row["mask_ratio"] for row in good["by_mask_ratio"]] == pytest.approx(np.arange(0.05, 1, 0.1))


def test_text_in_small_batches_is_the_same(text, monkeypatch):
    source, _, two = text
    data = [{"text": "for i in range(10): print(i)"}]
    whole = evaluate(source, two, samples=4, data=data)
    monkeypatch.setattr(text_module, "_MAX_LOGITS", 1)
    single = evaluate(source, two, samples=4, data=data)
    assert single["kl"] == pytest.approx(whole["kl"], rel=1e-4)
    assert single["nelbo_float"] == pytest.approx(whole["nelbo_float"], rel=1e-4)


def test_text_of_a_broken_model_says_so(text, monkeypatch):
    def broken(original, quantized, activations, allow_remote_code):
        pair = load_pair(original, quantized, activations, allow_remote_code)
        pair.candidate.cls.predictions.bias.data.fill_(torch.nan)
        return pair

    monkeypatch.setattr("arrow_quant_v2.torch.evaluation.run.load_pair", broken)
    found = evaluate(text[0], text[1], samples=1)
    assert found["nelbo_float"] > 0
    assert found["kl"] is None
    assert set(found["missing"]) == {"nelbo_quantized", "kl"}
    json.dumps(found, allow_nan=False)


# ---- models that cannot be sampled, wrong arguments


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A denoiser whose condition cannot be made up."""
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("conditional")
    save(model, path / "m", "image")
    return path / "m", quantized(path / "m", path / "q")


def condition_calls(times):
    shapes = {"sample": (2, 4, 8, 8), "encoder_hidden_states": (2, 3, 16)}
    for t in times:
        generator = torch.Generator().manual_seed(t)
        given = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        yield {**given, "timestep": torch.tensor(t)}


def test_a_model_that_cannot_be_sampled_names_the_remedy(conditional):
    with pytest.raises(UnsupportedModelError, match="encoder_hidden_states") as caught:
        evaluate(*conditional)
    assert "calls" in caught.value.remedy
    assert str(conditional[0]) in caught.value.file


def test_calls_compare_a_model_that_cannot_be_sampled(conditional):
    found = evaluate(*conditional, samples=4, calls=condition_calls([900, 100, 10]))
    assert (found["kind"], found["samples"]) == ("calls", 4)
    assert [row["time"] for row in found["output_error"]["by_time"]] == [900, 100]
    assert 0 < found["output_error"]["relative_squared_error"] < 0.01
    with pytest.raises(ConfigurationError, match="no samples"):
        evaluate(*conditional, calls=[])


def test_what_cannot_be_evaluated_is_refused(pictures, text, tmp_path):
    source, eight, _ = pictures
    for options in ({"samples": 0}, {"samples": 1.5}, {"seed": -1}, {"seed": 2**31}, {"data": [{}], "calls": []}):
        with pytest.raises(ConfigurationError):
            evaluate(source, eight, **options)
    with pytest.raises(ShapeMismatchError):
        evaluate(source, text[1])
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="part"):
        evaluate(tmp_path / "pipeline", eight)
    (tmp_path / "bare").mkdir()
    with pytest.raises(MetadataError, match=r"config\.json"):
        evaluate(tmp_path / "bare", eight)


def test_progress_and_cancelling(pictures):
    source, eight, _ = pictures
    seen = []
    evaluate(source, eight, samples=1, progress_callback=lambda message, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert len(seen) == 2 * STEPS
    with pytest.raises(CancelledError):
        evaluate(source, eight, samples=1, should_stop=lambda: len(seen) > 0)
    evaluate(source, eight, samples=1, progress_callback=lambda message, fraction: 1 / 0)  # logged, no more


# ---- the whole model


@pytest.fixture(scope="module")
def outlier(tmp_path_factory):
    """The last layer has a column of huge weights whose input is always 0: they carry all of its norm, nothing of its
    output, and stretch the grid until every other weight is 0."""
    path = tmp_path_factory.mktemp("outlier")
    model = tiny_dit()
    with torch.no_grad():
        width = model.proj_out_2.in_features
        for row, bias in ((0, 0.0), (width, -1.0)):  # shift and scale of its first input
            model.proj_out_1.weight[row] = 0
            model.proj_out_1.bias[row] = bias
        model.proj_out_2.weight[:, 0] = 1e4
    save(model, path / "m", "image")
    return path / "m", quantized(path / "m", path / "q", group_size=-1, quantize_patterns=["proj_out_2"])


def test_an_outlier_layer_passes_alone_and_fails_as_a_whole(outlier):
    layers = Q.validate_quality(*outlier, 0.99)
    assert layers["passed"]
    assert min(layer["cosine"] for layer in layers["layers"]) > 0.999
    assert "proj_out_2.weight" in [layer["name"] for layer in layers["layers"]]
    whole = Q.validate_quality(*outlier, 0.99, forward_samples=2)
    assert not whole["passed"]
    assert not whole["forward"]["passed"]
    assert whole["forward"]["min_cosine"] < 0.5
    assert not Q.validate_quality(*outlier, forward_samples=2)["passed"]  # whatever the layers, by default
    assert whole["below_min_accuracy"] == []


def test_a_good_model_passes_as_a_whole(pictures, text):
    for source, eight, _ in (pictures, text):
        found = Q.validate_quality(source, eight, 0.99, forward_samples=2)
        assert found["passed"]
        assert found["forward"]["samples"] == 2
        assert {row["time"] for row in found["forward"]["by_time"]}
        assert "forward" not in Q.validate_quality(source, eight, 0.99)


def test_the_whole_check_on_data_and_calls(pictures, conditional):
    source, eight, _ = pictures
    rows = [{"latent": np.zeros((3, 8, 8), np.float32)}]
    found = Q.validate_quality(source, eight, forward_samples=30, data=rows)
    assert found["passed"]
    assert len(found["forward"]["by_time"]) <= 10
    found = Q.validate_quality(*conditional, forward_samples=4, calls=condition_calls([900, 100]))
    assert found["forward"]["source"] == "calls"
    with pytest.raises(ConfigurationError, match="forward_samples"):
        Q.validate_quality(source, eight, data=rows)


def test_the_whole_check_compares_some_steps(pictures, monkeypatch):
    monkeypatch.setattr("arrow_quant_v2.torch.synthetic.TRAJECTORY_STEPS", 40)
    source, eight, _ = pictures
    found = check_forward(source, eight, 1)
    assert len(found["by_time"]) == 10
    assert found["threshold"] == 0.9
    with pytest.raises(ConfigurationError):
        Inputs(data=[], calls=[])


def test_the_whole_check_awaited_and_cancelled(outlier):
    found = asyncio.run(AsyncArrowQuantV2().validate_quality(*outlier, 0.9, forward_samples=1))
    assert not found["passed"]
    seen = []
    with pytest.raises(CancelledError):
        Q.validate_quality(
            *outlier,
            forward_samples=1,
            progress_callback=lambda *news: seen.append(news),
            should_stop=lambda: len(seen) > 1,
        )
    assert len(seen) == 2  # calls of the models, not tensors


def test_a_model_with_other_tensors_is_not_run(text, pictures):
    found = Q.validate_quality(text[0], pictures[1], forward_samples=1)
    assert not found["passed"]
    assert found["forward"] is None


# ---- command line


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["arrow-quant", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0, capsys.readouterr()


def test_evaluate_on_the_command_line(pictures, tmp_path, monkeypatch, capsys):
    source, eight, _ = pictures
    code, shown = run(monkeypatch, capsys, "evaluate", source, eight, "--samples", 1, "--json", "--out", tmp_path / "r")
    assert code == 0
    assert json.loads(shown.out) == json.loads((tmp_path / "r").read_text())
    code, shown = run(monkeypatch, capsys, "evaluate", source, eight, "--samples", 1, "--seed", 2)
    assert code == 0
    assert "psnr" in shown.out
    assert "no lpips" in shown.out
    for wrong in (["--samples", 0], ["--column", "a"], ["--out", tmp_path], ["--activations", "int5"]):
        assert run(monkeypatch, capsys, "evaluate", source, eight, *wrong)[0] == 2
    assert run(monkeypatch, capsys, "evaluate", source, eight, "--samples", 1, "--out", tmp_path / "no" / "r")[0] == 3


def test_text_on_the_command_line(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "code.txt").write_text("def f(x):\n    return x + 1\n" * 20)
    arguments = ("evaluate", text[0], text[1], "--samples", 2, "--data", tmp_path / "code.txt")
    code, shown = run(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "nelbo_quantized" in shown.out


def test_validate_exits_with_1_when_the_whole_fails(outlier, pictures, monkeypatch, capsys):
    assert run(monkeypatch, capsys, "validate", *outlier, "--min-accuracy", 0.9)[0] == 0
    code, shown = run(monkeypatch, capsys, "validate", *outlier, "--min-accuracy", 0.9, "--samples", 1)
    assert code == 1
    assert "outputs on 1 samples" in shown.out
    assert run(monkeypatch, capsys, "validate", *pictures[:2], "--samples", 1)[0] == 0


def test_validation_includes_the_evaluation_on_request(pictures, tmp_path):
    source, eight = pictures[0], pictures[1]
    seen = []
    found = Q.validate_quality(
        source, eight, evaluation_samples=2, forward_samples=1, progress_callback=lambda m, f: seen.append(f)
    )
    assert found["passed"]
    alone = evaluate(source, eight, 2)
    assert found["evaluation"] == alone
    assert seen == sorted(seen)
    assert seen[0] < 0.5 < seen[-1] <= 1
    assert "evaluation" not in Q.validate_quality(source, eight)
    with pytest.raises(ConfigurationError, match="evaluation_samples"):
        Q.validate_quality(source, eight, calls=[])
