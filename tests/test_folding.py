"""Folding of input scales into the modules before a layer."""

from __future__ import annotations

import dataclasses
import logging
import math
import re

import pytest

torch = pytest.importorskip("torch")

from arrow_quant_v2 import ArrowQuantV2, DiffusionQuantConfig, QuantizedModel  # noqa: E402
from arrow_quant_v2.model_file import StoredTensor  # noqa: E402
from arrow_quant_v2.torch import load  # noqa: E402
from arrow_quant_v2.torch.calibrate import collect_samples  # noqa: E402
from arrow_quant_v2.torch.correction import add_correction  # noqa: E402
from arrow_quant_v2.torch.folding import fold, fold_equalization, fold_groups, foldable  # noqa: E402
from arrow_quant_v2.torch.folding.integer_layers import channel_scales  # noqa: E402
from arrow_quant_v2.torch.folding.producers import scale_output  # noqa: E402
from arrow_quant_v2.torch.integer import IntegerConv, IntegerLinear  # noqa: E402
from arrow_quant_v2.torch.modules import PackedLinear, PackedWeight  # noqa: E402
from arrow_quant_v2.torch.time_state import timestep  # noqa: E402
from arrow_quant_v2.torch.unfold import CONVOLUTIONS, MEASURED, TRANSPOSED  # noqa: E402
from conftest import ROOT  # noqa: E402
from tiny_families import families, relatives  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FAMILIES = {family.name: family for family in families()}
ALL = {**FAMILIES, **{family.name: family for family in relatives()}}

_NORM1 = "norm1 -> attn1.to_q, attn1.to_k, attn1.to_v"
_VALUE = "to_v -> to_out.0"
_GATED = "net.0.proj -> net.2"
_JOINT = {
    "norm1.linear -> attn.to_q, attn.to_k, attn.to_v",
    "norm1.linear -> ff.net.0.proj",
    "norm1_context.linear -> attn.add_q_proj, attn.add_k_proj, attn.add_v_proj",
    "norm1_context.linear -> ff_context.net.0.proj",
    "norm_out.linear -> proj_out",
    "to_v, add_v_proj -> to_out.0, to_add_out",
}
_CONDITION = {"norm -> proj_in", _NORM1, "norm2 -> attn2.to_q", "norm3 -> ff.net.0.proj", _VALUE, _GATED}
_LLAMA = {
    "input_layernorm -> self_attn.q_proj, self_attn.k_proj, self_attn.v_proj",
    "post_attention_layernorm -> mlp.gate_proj, mlp.up_proj",
    "mlp.up_proj -> mlp.down_proj",
}
# Of each family: producers -> consumers, by their names within a block.
EXPECTED = {
    "dit": {
        "norm1.linear -> attn1.to_q, attn1.to_k, attn1.to_v",
        "norm1.linear -> ff.net.0.proj",
        "proj_out_1 -> proj_out_2",
        _VALUE,
    },
    "pixart": {_VALUE},
    "sd3": {
        *_JOINT,
        "norm1.linear -> attn2.to_q, attn2.to_k, attn2.to_v",
        "to_v, add_v_proj -> to_out.0",
        _VALUE,
    },
    "flux": {*_JOINT, "norm.linear -> attn.to_q, attn.to_k, attn.to_v, proj_mlp"},
    "unet2d": {"group_norm -> to_q, to_k, to_v", _VALUE},
    "unet2d_condition": _CONDITION,
    "stable_audio": {_NORM1, "norm2 -> attn2.to_q", "norm3 -> ff.net.0.proj", _VALUE, _GATED},
    "bert": {"self.value -> output.dense", "transform.LayerNorm -> decoder"},
    "modernbert": {"attn_norm -> attn.Wqkv", "mlp_norm -> mlp.Wi", "Wqkv -> Wo", "Wi -> Wo"},
    "llama": {*_LLAMA, "self_attn.v_proj -> self_attn.o_proj"},
    "llama_grouped": _LLAMA,
    "unet2d_linear": _CONDITION,
    "unet2d_only_cross": {*_CONDITION, "norm1 -> attn1.to_q"},  # the middle block attends to itself all the same
    "unet2d_added": {"group_norm -> to_q, to_k, to_v", "to_v, add_v_proj -> to_out.0"},
    "roberta": {"self.value -> output.dense"},
    "mistral": _LLAMA,
    "qwen2": {*_LLAMA, "self_attn.v_proj -> self_attn.o_proj"},
    "qwen3": {*_LLAMA, "self_attn.v_proj -> self_attn.o_proj"},
}  # fmt: skip


def kind(group):
    parts = dict.fromkeys(part.module for part in group.link.producers)
    return f"{', '.join(parts)} -> {', '.join(group.link.consumers)}"


def draw(channels, seed, powers):
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.rand(channels, generator=generator) * 4 - 2
    return 2.0 ** (exponent.round() if powers else exponent)


def divide_weight(layer, e):
    """W / e, so that the layer gives the same for an input times e."""
    weight = layer.weight
    e = e.to(weight.dtype)
    tail = [1] * (weight.dim() - 2)
    if isinstance(layer, TRANSPOSED):
        weight.data /= e.reshape(-1, 1, *tail)
    elif isinstance(layer, CONVOLUTIONS):
        blocks = weight.data.reshape(layer.groups, -1, *weight.shape[1:])
        weight.data = (blocks / e.reshape(layer.groups, 1, -1, *tail)).reshape(weight.shape)
    else:
        weight.data /= e


def multiply_input(layer, e):
    shape = [-1] if isinstance(layer, torch.nn.Linear) else [-1, *[1] * (layer.weight.dim() - 2)]
    layer.register_forward_pre_hook(lambda module, args: (args[0] * e.reshape(shape).to(args[0]), *args[1:]))


def unshared_layers(model):
    counts = {}
    for parameter in (p for _, p in model.named_parameters(remove_duplicate=False)):
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MEASURED)}
    return {name: layer for name, layer in layers.items() if counts[id(layer.weight)] == 1}


def width(layer):
    return layer.in_features if isinstance(layer, torch.nn.Linear) else layer.in_channels


def draw_scales(model, powers):
    """One scale for each group, and one for each other layer."""
    group_of = {consumer: i for i, group in enumerate(fold_groups(model)) for consumer in group.consumers}
    layers = unshared_layers(model)
    return {
        name: draw(width(layer), group_of.get(name, 1000 + i), powers) for i, (name, layer) in enumerate(layers.items())
    }


def equalize(model, scales, folded):
    for name, e in scales.items():
        layer = model.get_submodule(name)
        divide_weight(layer, e)
        if name not in folded:
            multiply_input(layer, e)


@pytest.mark.parametrize("name", ALL)
def test_exactly_these_layers_are_folded(name):
    groups = fold_groups(ALL[name].make())
    assert {kind(group) for group in groups} == EXPECTED[name]
    consumers = [consumer for group in groups for consumer in group.consumers]
    assert len(consumers) == len(set(consumers))
    parts = [(part.module, part.index) for group in groups for part in group.producers]
    assert len(parts) == len(set(parts))


@pytest.mark.parametrize("powers", [True, False], ids=["powers of two", "any factors"])
@pytest.mark.parametrize("name", ALL)
def test_folding_changes_no_output(name, powers):
    family = ALL[name]
    model = family.make()
    want = family.run(model)
    scales = draw_scales(model, powers)
    folded = fold(model, scales)
    assert folded == set(foldable(model))
    equalize(model, scales, folded)
    error = (family.run(model) - want).abs().max() / want.abs().max()
    assert error < 1e-5


@pytest.mark.parametrize("name", ["pixart", "unet2d", "unet2d_condition", "stable_audio", "modernbert", "llama"])
def test_powers_of_two_change_no_bit_in_16_bits(name):
    family = FAMILIES[name]
    model = family.make().bfloat16()
    want = family.run(model)
    scales = draw_scales(model, powers=True)
    folded = fold(model, scales)
    assert folded == set(foldable(model))
    for consumer in folded:
        divide_weight(model.get_submodule(consumer), scales[consumer])
    assert torch.equal(family.run(model), want)


def test_adaptive_norms_in_16_bits_keep_their_digits():
    family = FAMILIES["dit"]
    exact, model = family.make(), family.make().bfloat16()
    want = family.run(exact)
    before = (family.run(model) - want).norm()
    scales = {name: e.clamp(min=0.5) for name, e in draw_scales(model, powers=True).items()}
    folded = fold(model, scales)
    assert folded == set(foldable(model))
    for consumer in folded:
        divide_weight(model.get_submodule(consumer), scales[consumer])
    assert (family.run(model) - want).norm() < 2 * before

    small = {name: e / 4 for name, e in scales.items()}
    assert {name.rpartition(".")[2] for name in fold(family.make().bfloat16(), small)} == {"0"}  # attn1.to_out.0
    assert fold(family.make(), small) == set(foldable(exact))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_producer_was_really_changed(name):
    """Without the folding the same weights give something else, for every group alone."""
    family = FAMILIES[name]
    want = family.run(family.make())
    for kinds in EXPECTED[name]:
        model = family.make()
        group = next(group for group in fold_groups(model) if kind(group) == kinds)
        scales = {c: draw(width(model.get_submodule(c)), 5, False) for c in group.consumers}
        assert fold(model, scales) == set(group.consumers)
        assert (family.run(model) - want).abs().max() > 1e-4 * want.abs().max()
        for consumer, e in scales.items():
            divide_weight(model.get_submodule(consumer), e)
        assert (family.run(model) - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_consumers_of_one_producer_must_agree(name):
    model = FAMILIES[name].make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups = [group for group in fold_groups(model) if len(group.consumers) > 1]
    apart, partly = {}, {}
    for group in groups:
        for i, consumer in enumerate(group.consumers):
            apart[consumer] = draw(width(model.get_submodule(consumer)), i, True)
        partly.update((c, apart[group.consumers[0]]) for c in group.consumers[1:])
    assert fold(model, apart) == set()
    assert fold(model, partly) == set()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_shared_norm_is_left_alone():
    model = FAMILIES["llama"].make()
    layers = model.model.layers
    layers[1].input_layernorm.weight = layers[0].input_layernorm.weight
    layers[1].mlp = layers[0].mlp
    names = set(foldable(model))
    assert "model.layers.0.self_attn.o_proj" in names
    assert not [name for name in names if re.search(r"q_proj|gate_proj|down_proj", name)]


def test_a_tied_decoder_is_left_alone():
    assert "decoder" not in foldable(FAMILIES["modernbert"].make())
    untied = FAMILIES["modernbert"].make()
    untied.decoder.weight = torch.nn.Parameter(untied.decoder.weight.detach().clone())
    assert foldable(untied)["decoder"] == "head.norm"


def test_a_wrong_processor_is_left_alone():
    model = FAMILIES["dit"].make()
    for block in model.transformer_blocks:
        block.attn1.processor = object()
    assert not [name for name in foldable(model) if "attn1" in name]


def test_foldable_names_the_producers():
    found = foldable(FAMILIES["flux"].make())
    assert found["transformer_blocks.0.attn.to_out.0"] == "transformer_blocks.0.attn.to_v, " + (
        "transformer_blocks.0.attn.add_v_proj"
    )
    assert found["single_transformer_blocks.1.proj_mlp"] == "single_transformer_blocks.1.norm.linear"
    assert "single_transformer_blocks.1.proj_out" not in found


def test_an_unknown_class_is_left_alone():
    class Attention(torch.nn.Module):  # the name of a class that is known, from elsewhere
        def __init__(self):
            super().__init__()
            self.to_v = torch.nn.Linear(8, 8)
            self.to_out = torch.nn.ModuleList([torch.nn.Linear(8, 8)])

    assert foldable(Attention()) == {}


def test_another_version_of_a_class_is_left_alone(caplog):
    model = FAMILIES["dit"].make()
    del model.transformer_blocks[0].norm_type
    with caplog.at_level(logging.WARNING, "arrow_quant_v2"):
        assert "transformer_blocks.0.ff.net.0.proj" not in foldable(model)
    assert "BasicTransformerBlock is not the class that is known" in caplog.text


# Producers of all kinds

ROWS, COLS = 12, 32


def stored(binary=False, shape=(ROWS, COLS), **more):
    rng = torch.Generator().manual_seed(3)
    rows, cols = shape[0], math.prod(shape[1:])
    groups = rows * (cols // 16)
    bits = 2 if binary else 8
    scales = (torch.rand(groups, generator=rng) + 0.5) / 128
    return StoredTensor(
        name="layer.weight", component="", shape=tuple(shape), dtype="float32", bits=bits, group_size=16,
        grid="residual_binary" if binary else "affine", quant_axis=0, row_rank=1, method="base", reason="",
        layout="arrow_quant", stored_bytes=0,
        data=torch.randint(0, 256, (rows * cols * bits // 8,), generator=rng, dtype=torch.uint8).numpy(),
        scales=scales.numpy(),
        zero_points=(torch.randn(groups, generator=rng) / 100 if binary else torch.full((groups,), 128.0)).numpy(),
        residual_scales=(scales / 3 if binary else torch.zeros(0)).numpy(), **more,
    )  # fmt: skip


def make_linear(kind, tensor, bias=True):
    torch.manual_seed(4)
    source = torch.nn.Linear(COLS, ROWS, bias=bias)
    weight = PackedWeight(tensor, torch.float32)
    return PackedLinear(source, weight) if kind == "packed" else IntegerLinear(source, weight, tensor, 8, True)


def check_scaled(module, x, offsets):
    """factors * y + offsets, up to float32."""
    factors = draw(ROWS, 6, False).double()
    want = module(x) * factors + (0 if offsets is None else offsets)
    scale_output(module, factors, offsets)
    got = module(x)
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("layer", ["packed", "integer"])
def test_packed_producers(layer, binary, bias):
    module = make_linear(layer, stored(binary), bias)
    x = torch.randn(5, COLS, generator=torch.Generator().manual_seed(7))
    check_scaled(module, x, torch.linspace(-1, 1, ROWS).double() if bias else None)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_a_corrected_producer(bias):
    """gain * y + shift by time group; the bias of an adaptive norm's scale as well."""
    rng = torch.Generator().manual_seed(8)
    tensor = stored(
        correction_boundaries=(0.0, 500.0, 1000.0),
        time_gamma=(torch.rand(2 * ROWS, generator=rng) + 0.5).numpy(),
        time_beta=torch.randn(2 * ROWS, generator=rng).numpy(),
    )
    module = make_linear("integer", tensor, bias)
    add_correction(module, tensor)
    x = torch.randn(2, COLS, generator=rng)
    with timestep(module, torch.tensor([10, 900])):
        check_scaled(module, x, torch.linspace(-1, 1, ROWS).double() if bias else None)


@torch.no_grad()
@pytest.mark.parametrize("make", [
    lambda: torch.nn.Conv2d(4, ROWS, 3, groups=2), lambda: torch.nn.GroupNorm(3, ROWS),
    lambda: torch.nn.LayerNorm(ROWS), lambda: torch.nn.LayerNorm(ROWS, bias=False), lambda: torch.nn.RMSNorm(ROWS),
])  # fmt: skip
def test_other_producers(make):
    module = make()
    for parameter in module.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(9))
    conv, spatial = isinstance(module, torch.nn.Conv2d), isinstance(module, (torch.nn.Conv2d, torch.nn.GroupNorm))
    shape = (2, 4 if conv else ROWS, 5, 5) if spatial else (2, 5, ROWS)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    factors = draw(ROWS, 6, False).double()
    want = module(x) * (factors.reshape(-1, 1, 1) if spatial else factors)
    scale_output(module, factors)
    assert (module(x) - want).abs().max() < 1e-5 * want.abs().max()


# Layers of a quantized file


def integer_model():
    """A tiny Llama of integer layers with column scales: equal ones within a group, powers of two."""
    family = FAMILIES["llama"]
    model = family.make()
    scales = draw_scales(model, powers=True)
    for i, (name, e) in enumerate(scales.items()):
        layer = model.get_submodule(name)
        tensor = stored(shape=tuple(layer.weight.shape), column_scales=e.numpy())
        parent, _, leaf = name.rpartition(".")
        packed = IntegerLinear(layer, PackedWeight(tensor, torch.float32), tensor, 8, bool(i % 2))
        setattr(model.get_submodule(parent), leaf, packed)
    return family, model


def test_integer_layers_take_scaled_inputs(caplog):
    family, model = integer_model()
    want = family.run(model)
    weight = model.model.layers[0].mlp.down_proj.weight
    with caplog.at_level(logging.INFO, "arrow_quant_v2"):
        folded = fold_equalization(model)
    assert folded == set(foldable(model))
    assert "14 of 15 equalized layers are folded into their producers" in caplog.text  # all but lm_head
    # A factor that is a power of two changes no bit of the input, so that its codes are the same.
    assert torch.equal(family.run(model), want)
    layer = model.model.layers[0].mlp.down_proj
    assert layer.input_is_scaled
    assert torch.equal(layer.weight * layer.folded_scales, weight)
    assert not model.lm_head.input_is_scaled


def test_a_kernel_scaled_by_position_is_not_folded():
    tensor = stored(shape=(ROWS, 16, 3), column_scales=draw(48, 1, True).numpy())
    conv = IntegerConv(torch.nn.Conv1d(16, ROWS, 3), PackedWeight(tensor, torch.float32), tensor, 8, True)
    assert channel_scales(conv) is None
    e = draw(16, 1, True)
    conv.packed.column_scales = e.repeat_interleave(3)
    assert torch.equal(channel_scales(conv), e)


def test_a_convolution_takes_scaled_inputs():
    """proj_in of a UNet's transformer: a GroupNorm gives the scaled input of a 1x1 convolution."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    torch.manual_seed(0)
    model = Transformer2DModel(2, 16, in_channels=32, num_layers=1, norm_num_groups=8).eval()
    tensor = stored(shape=(32, 32, 1, 1), column_scales=draw(32, 1, True).numpy())
    model.proj_in = IntegerConv(model.proj_in, PackedWeight(tensor, torch.float32), tensor, 8, True)
    x = torch.randn(1, 32, 4, 4)
    with torch.no_grad():
        want = model(x).sample
        assert fold_equalization(model) == {"proj_in"}
        assert torch.equal(model(x).sample, want)


def test_loading_folds(tmp_path, monkeypatch):
    """The same file with and without folding: static ranges, codes, time groups and all."""
    family = FAMILIES["dit"]
    model = family.make()
    model.save_pretrained(tmp_path / "m")
    config = DiffusionQuantConfig(bit_width=8, group_size=32, calibration_samples=2, num_time_groups=2)
    collected = collect_samples(tmp_path / "m", [family.inputs] * 2, config)
    ArrowQuantV2().quantize_diffusion_model(tmp_path / "m", tmp_path / "q", config, calibration=collected)
    scales = {f"{name}.weight": e.numpy() for name, e in draw_scales(model, powers=True).items()}

    def equalized(path):
        for tensor in QuantizedModel(path):
            yield dataclasses.replace(tensor, column_scales=scales[tensor.name]) if tensor.packed else tensor

    monkeypatch.setattr(load, "QuantizedModel", equalized)
    folded = load.load_quantized(tmp_path / "q", activations="int8")
    weights_only = load.load_quantized(tmp_path / "q")
    monkeypatch.setattr(load, "fold_equalization", lambda model: set())
    multiplied = load.load_quantized(tmp_path / "q", activations="int8")
    names = {name for name, module in folded.named_modules() if getattr(module, "input_is_scaled", False)}
    kept = {"proj_out_2"}  # its consumer is not quantized, nor is its producer changed
    assert names == set(foldable(folded)) - kept
    want = family.run(multiplied)
    # Sums of adaptive norms are rounded elsewhere, which moves a few codes by one.
    assert (family.run(folded) - want).norm() < 1e-2 * want.norm()
    assert torch.equal(folded.proj_out_1.weight, multiplied.proj_out_1.weight)
    assert torch.equal(
        weights_only.transformer_blocks[0].norm1.linear.bias, model.transformer_blocks[0].norm1.linear.bias
    )


# Documents


def table():
    rows = ["| family | producers -> consumers, within a block |", "|---|---|"]
    for name, family in FAMILIES.items():
        kinds = dict.fromkeys(kind(group) for group in fold_groups(family.make()))
        cells = [f"`{k}`".replace(" -> ", "` -> `").replace(", ", "`, `") for k in kinds]
        rows.append(f"| {name} | {'<br>'.join(cells)} |")
    return "\n".join(rows)


def test_the_documented_table_is_what_is_folded():
    assert table() in (ROOT / "docs" / "spatial.md").read_text(encoding="utf-8")
