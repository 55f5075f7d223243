"""Every architecture family that is known, tiny and with random weights: planned, quantized, loaded, run."""

from __future__ import annotations

import json
import math

import pytest

torch = pytest.importorskip("torch")

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel  # noqa: E402
from arrow_quant_v2.cli.main import app  # noqa: E402
from arrow_quant_v2.torch import load_quantized, load_state_dict  # noqa: E402
from arrow_quant_v2.torch.activations import ActivationTable  # noqa: E402
from arrow_quant_v2.torch.calibrate import collect_samples  # noqa: E402
from arrow_quant_v2.torch.folding import foldable  # noqa: E402
from helpers import exact_codes_of  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_families import families  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FAMILIES = {family.name: family for family in families()}
GROUP_SIZE = 32
TEXT = {"bert", "modernbert", "llama", "llama_grouped"}
# Of times that are told as a share of the way from data to noise.
UNIT_TIMES = {"flux", "stable_audio"}


def quantize(source, out, bits, calibration="none", **more):
    config = DiffusionQuantConfig(bit_width=bits, group_size=GROUP_SIZE, min_accuracy=0.0, **more)
    ArrowQuantV2().quantize_diffusion_model(source, out, config, calibration=calibration)
    return out


def relative(got, want):
    assert got.shape == want.shape
    assert torch.isfinite(got).all()
    return float((got - want).norm() / want.norm())


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def source(family, tmp_path_factory):
    path = tmp_path_factory.mktemp(family.name) / "model"
    family.make().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tensors(source):
    (file,) = source.glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def int4(source):
    return quantize(source, source.parent / "int4", 4)


@pytest.fixture
def want(family, one_torch_thread):
    return family.run(family.make())


def test_the_plan_says_what_each_tensor_gets(source, tensors):
    config = DiffusionQuantConfig(bit_width=4, group_size=GROUP_SIZE)
    plan = ArrowQuantV2().plan(source, config, calibration="none")
    layers, kept = plan["layers"], plan["kept"]
    assert sorted(entry["name"] for entry in [*layers, *kept]) == sorted(tensors)
    for layer in layers:
        tensor = tensors[layer["name"]]
        assert tuple(layer["shape"]) == tensor.shape
        assert layer["role"] not in ("", "bias", "norm")
        columns = math.prod(tensor.shape[1:])
        size = min(GROUP_SIZE, columns)
        assert (layer["bits"], layer["group_size"], layer["method"]) == (4, size, "min_max")
        assert layer["tail"] == (columns - 1) % size + 1
    assert all(entry["role"] and entry["reason"] for entry in kept)


def test_the_plan_of_the_command_is_the_same(source, tensors):
    run = CliRunner().invoke(
        app, ["quantize", str(source), "--plan", "--json"], env={"ARROW_QUANT_CALIBRATION": "none"}
    )
    assert run.exit_code == 0, run.output
    plan = json.loads(run.stdout)
    assert sorted(entry["name"] for entry in [*plan["layers"], *plan["kept"]]) == sorted(tensors)
    assert all({"role", "bits", "group_size", "method"} <= layer.keys() for layer in plan["layers"])


def test_names_shapes_and_types_are_preserved(int4, tensors):
    state = load_state_dict(int4)
    assert state.keys() == tensors.keys()
    assert all(state[name].shape == t.shape and state[name].dtype == t.dtype for name, t in tensors.items())
    stored = {tensor.name: tensor for tensor in QuantizedModel(int4)}
    kept = [name for name, tensor in stored.items() if not tensor.quantized]
    assert kept
    assert all(torch.equal(state[name], tensors[name]) for name in kept)
    assert {tensor.bits for tensor in stored.values() if tensor.quantized} == {4}


def test_four_bits_run(family, int4, want):
    # A sixteenth of each group's range is a step, a relative error of 1 / sqrt(12) steps in each weight: about a tenth.
    assert 0 < relative(family.run(load_quantized(int4)), want) < 0.4


def test_eight_bits_are_close(family, source, want):
    path = quantize(source, source.parent / "int8", 8)
    # Sixteen times finer than four bits.
    assert 0 < relative(family.run(load_quantized(path)), want) < 0.025


def test_integer_activations_run(family, source, want, monkeypatch):
    """Calibrated on the example's own calls, so that ranges hold what is run; equalized layers are folded."""
    config = {"calibration_samples": 8, "calibration_stages": 1, "num_time_groups": 1 if family.name in TEXT else 2,
              "equalization": "balance", "activation_bits": 8}  # fmt: skip
    settings = DiffusionQuantConfig(bit_width=8, group_size=GROUP_SIZE, min_accuracy=0.0, **config)
    span = 1.0 if family.name in UNIT_TIMES or family.name in TEXT else None
    collected = collect_samples(source, [family.inputs] * 8, settings, time_span=span)
    path = quantize(source, source.parent / "w8a8", 8, collected, **config)
    model = load_quantized(path, activations="int8")
    assert 0 < relative(family.run(model), want) < 0.08
    folded = {name for name, module in model.named_modules() if getattr(module, "input_is_scaled", False)}
    assert folded
    assert folded <= set(foldable(model))
    monkeypatch.setattr(ActivationTable, "encode", exact_codes_of)
    assert relative(family.run(model), family.run(load_quantized(path))) < 1e-4


@pytest.mark.parametrize("name", ["sd3", "pixart", "unet2d_condition", "stable_audio"])
def test_a_condition_that_cannot_be_made_up_leaves_weights_only(name, tmp_path):
    """Nothing in the signature of SD3's forward says that it needs one."""
    FAMILIES[name].make().save_pretrained(tmp_path / "m")
    config = DiffusionQuantConfig(bit_width=8, calibration="auto")
    result = ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "q", config)
    assert result["calibration"] == "none"
