"""How much each time group counts in rounding, and what was measured for it."""

from __future__ import annotations

import numpy as np
import pytest
from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig
from arrow_quant_v2._native import core
from helpers import write_safetensors

torch = pytest.importorskip("torch")
from arrow_quant_v2.torch import collect_activations  # noqa: E402
from arrow_quant_v2.torch.sensitivity import RELATIVE_NOISE, measure_sensitivity  # noqa: E402
from arrow_quant_v2.torch.synthetic import SelfSampling  # noqa: E402
from torch import nn  # noqa: E402

CHANNELS = 64
BOUNDARIES = [0.0, 500.0, 1000.0]


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(CHANNELS, 32)

    def forward(self, sample, timestep):
        return self.proj(sample)


def calls(count=64):
    """The two halves of time excite different directions."""
    generator = torch.Generator().manual_seed(0)
    mixes = torch.randn(2, 8, CHANNELS, generator=generator)
    for i in range(count):
        half = i // 8 % 2  # every eighth sample is held out
        rows = torch.randn(16, 8, generator=generator) @ mixes[half]
        rows = rows + 0.1 * torch.randn(16, CHANNELS, generator=generator)
        yield {"sample": rows[None], "timestep": 250 + 500 * half}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Layer().eval()


@pytest.fixture
def source(tmp_path, model):
    (tmp_path / "m").mkdir()
    write_safetensors(tmp_path / "m" / "model.safetensors", {"proj.weight": model.proj.weight.detach().numpy()})
    return tmp_path / "m"


@pytest.fixture
def statistics(model):
    return collect_activations(model, calls(), BOUNDARIES).statistics


def errors(source, output, statistics, **given):
    """Relative output error on held-out rows, by time group."""
    config = DiffusionQuantConfig(bit_width=2, group_size=32, min_accuracy=0.0, num_time_groups=2, **given)
    result = ArrowQuantV2("base").quantize_diffusion_model(source, output, config, calibration=statistics)
    (layer,) = result["layers"]
    return [10 ** (-group["sqnr_db"] / 10) for group in layer["time_groups"]], result


@pytest.mark.parametrize(("weights", "favoured"), [([1, 0], 0), ([0, 1], 1)])
def test_a_group_that_counts_more_has_less_error(tmp_path, source, statistics, weights, favoured):
    alike, _ = errors(source, tmp_path / "u", statistics)
    weighted, _ = errors(source, tmp_path / "w", statistics, time_weighting=weights)
    assert weighted[favoured] < 0.7 * alike[favoured]
    assert weighted[1 - favoured] > alike[1 - favoured]


def test_detail_is_the_least_noisy_end(tmp_path, source, statistics):
    alike, _ = errors(source, tmp_path / "u", statistics)
    detail, _ = errors(source, tmp_path / "d", statistics, objective="detail")
    assert detail[0] < alike[0]


def test_sensitivity_is_that_of_the_statistics(tmp_path, source, statistics):
    with pytest.raises(ConfigurationError, match="which these statistics do not hold"):
        errors(source, tmp_path / "none", statistics, time_weighting="sensitivity")
    statistics.set_sensitivity([0.01, 1.0])
    statistics.save(str(tmp_path / "s.parquet"))
    kept = core.StatisticsFile(str(tmp_path / "s.parquet"))
    assert kept.sensitivity == [0.01, 1.0]
    by_sensitivity, _ = errors(source, tmp_path / "s", statistics, time_weighting="sensitivity")
    by_hand, _ = errors(source, tmp_path / "h", statistics, time_weighting=[0.125, 1])
    assert by_sensitivity == by_hand
    from_file, _ = errors(source, tmp_path / "f", kept, time_weighting="sensitivity")
    assert from_file == by_sensitivity


def test_weights_need_statistics_by_group(tmp_path, source, model, statistics):
    merged = collect_activations(model, calls(), BOUNDARIES, keep_groups=False).statistics
    _, result = errors(source, tmp_path / "m1", merged, objective="detail")
    assert any("count alike" in warning for warning in result["warnings"])
    other = collect_activations(model, calls(), [0, 300, 600, 1000]).statistics
    with pytest.raises(ConfigurationError, match="2 values, and the statistics 3 time groups"):
        errors(source, tmp_path / "o", other, time_weighting=[1, 2])


def test_one_way_to_weight_at_a_time():
    for given in ({"time_weighting": "sensitivity"}, {"time_weighting": [1, 2], "num_time_groups": 2}):
        with pytest.raises(ConfigurationError, match="objective is detail"):
            DiffusionQuantConfig(objective="detail", **given)


@pytest.mark.parametrize("values", [[1.0], [1.0, -1.0], [1.0, float("nan")]])
def test_sensitivity_is_one_number_for_each_group(statistics, values):
    with pytest.raises(Exception, match="sensitivit"):
        statistics.set_sensitivity(values)


def test_measured_sensitivity_is_what_an_error_does_to_the_result():
    gains = {900.0: 4.0, 600.0: 2.0, 100.0: 0.5}  # of what the model says at each time

    def sample(model, ids, seed, change):
        x = torch.ones(len(ids), 2000)
        for time, gain in gains.items():
            yield ids
            x = x + gain * (change(time, model(x)) - model(x))
        return x

    sampling = SelfSampling(1000.0, 3, None, sample)
    found = measure_sensitivity(nn.Identity(), sampling, [0, 250, 500, 1000], samples=2)
    assert found[1] == 0
    assert found[0] == pytest.approx((0.5 * RELATIVE_NOISE) ** 2, rel=0.1)
    assert found[2] == pytest.approx((16 + 4) * RELATIVE_NOISE**2, rel=0.1)
    assert found == measure_sensitivity(nn.Identity(), sampling, [0, 250, 500, 1000], samples=2)


def test_measured_sensitivity_of_tokens_is_the_share_that_changes():
    def sample(model, ids, seed, change):
        logits = torch.zeros(len(ids), 2000, 4) + torch.tensor([1.0, 0.0, 0.0, 0.0])
        yield ids
        quiet = change(0.9, logits.clone()).argmax(-1)
        yield ids
        loud = change(0.1, logits * 1e-3 + torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)))
        return torch.stack([quiet, loud.argmax(-1)], 1)

    found = measure_sensitivity(nn.Identity(), SelfSampling(1.0, 2, 3, sample), [0, 0.5, 1], samples=2)
    assert found[1] == 0  # noise of a twentieth does not move what leads by one
    assert 0 < found[0] < 0.2
    assert np.isfinite(found).all()
