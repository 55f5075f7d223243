"""Shapes of weights."""

from __future__ import annotations

import math
import pathlib

import numpy as np
from arrow_quant_v2 import ArrowQuantV2, ConfigurationError, DiffusionQuantConfig, quantize_layer

from robustness.observe import Wrong, expect, kept, layers, make_model, normal, plan, quantize, stored

NAME = "blocks.0.attn.to_q.weight"


def tail(folder: pathlib.Path, shape: str, group: str) -> str:
    """A row whose length is no multiple of the group."""
    size = tuple(int(d) for d in shape.split("x"))
    group_size, columns = int(group), math.prod(size[1:])
    weight = normal(*size)
    name = NAME if len(size) == 2 else "down_blocks.0.resnets.0.conv1.weight"
    source = make_model(folder / "m", {name: weight, "conv_in.weight": normal(4, 4, 3, 3)})
    before = layers(plan(source, group_size=group_size))[name]
    result = quantize(source, folder / "q", group_size=group_size)
    after = layers(result)[name]
    want = columns % group_size or min(columns, group_size)
    expect(before["tail"] == after["tail"] == want, f"tail {after['tail']}, planned {before['tail']}")
    tensor = stored(folder / "q")[name]
    np.testing.assert_array_equal(
        tensor.dequantize(), quantize_layer(weight, bit_width=4, group_size=group_size).dequantize()
    )
    expect(result["bits_per_weight"] > 4 * 0.5, f"{result['bits_per_weight']} bits a weight")
    return (
        f"the last group of a row has {want} columns; the plan says so; read back equal; "
        f"{8 * before['stored_bytes'] / weight.size:.2f} bits a weight planned, {result['bits_per_weight']:.2f} on disk"
    )


def rule_and_tail(folder: pathlib.Path) -> str:
    source = make_model(folder / "m", {NAME: normal(8, 4544), "blocks.1.attn.to_q.weight": normal(8, 4544)})
    result = quantize(source, folder / "q", group_size=256, layer_bit_widths={r"blocks\.1": 8})
    one, two = layers(result).values()
    expect((one["bits"], two["bits"]) == (4, 8), f"{one['bits']} and {two['bits']} bits")
    expect(one["tail"] == two["tail"] == 4544 % 256, f"tails {one['tail']}, {two['tail']}")
    return f"4 bits, and 8 by the rule; both with a last group of {one['tail']} columns"


def whole_rows(folder: pathlib.Path) -> str:
    weight = normal(24, 100)
    quantize(make_model(folder / "m", {NAME: weight}), folder / "q", group_size=-1)
    tensor = stored(folder / "q")[NAME]
    expect(tensor.group_size == 100 and tensor.scales.size == 24, f"groups of {tensor.group_size}")
    error = np.abs(tensor.dequantize() - weight).max()
    expect(error <= tensor.scales.max() * 0.5001, f"error {error}")
    return "24 scales for 24 rows; read back, every weight within half a step"


def bad_group(folder: pathlib.Path, group: str) -> str:
    try:
        DiffusionQuantConfig(group_size=int(group))
    except ConfigurationError as error:
        expect("group_size" in str(error), str(error))
        return f"at construction: {error}"
    raise Wrong("accepted")


def ranks(folder: pathlib.Path) -> str:
    shapes = [(1, 64, 48), (1, 48), (16, 8, 3, 3, 3), (768, 192, 3), (192, 1, 3)]
    tensors = {f"blocks.{i}.proj.weight": normal(*shape) for i, shape in enumerate(shapes)}
    result = quantize(make_model(folder / "m", tensors), folder / "q", group_size=64)
    after = stored(folder / "q")
    for name, weight in tensors.items():
        expect(after[name].shape == weight.shape, f"{name} came back as {after[name].shape}")
    for layer in result["layers"]:
        want = quantize_layer(tensors[layer["name"]], bit_width=4, group_size=64).dequantize()
        expect(
            np.array_equal(after[layer["name"]].dequantize(), want), f"{layer['name']} is not grouped from dimension 1"
        )
    reasons = "; ".join(f"{list(tensors[name].shape)} kept: {reason}" for name, reason in kept(result).items())
    return f"all shapes come back; {len(result['layers'])} quantized, flattened from dimension 1; {reasons}"


def experts(folder: pathlib.Path) -> str:
    name = "model.layers.0.mlp.experts.down_proj"
    weight = normal(4, 96, 64)
    result = quantize(make_model(folder / "m", {name: weight}), folder / "q", group_size=64)
    tensor = stored(folder / "q")[name]
    expect(tensor.quantized and tensor.matrix_shape == (4 * 96, 64), f"kept: {kept(result)}")
    want = np.stack([quantize_layer(expert, bit_width=4, group_size=64).dequantize() for expert in weight])
    expect(np.array_equal(tensor.dequantize(), want), "the groups are not those of the single experts")
    return "384 rows of 64: the same values as when each expert is quantized alone"


def tiny(folder: pathlib.Path) -> str:
    tensors = {"a.weight": normal(1, 12), "b.weight": normal(1, 1), "token_type_embeddings.weight": normal(3, 2048)}
    result = quantize(make_model(folder / "m", tensors), folder / "q")
    expect(kept(result).keys() == tensors.keys(), f"quantized: {list(layers(result))}")
    ArrowQuantV2("base").validate_quality(folder / "m", folder / "q")
    return "kept and listed: " + "; ".join(f"{name}: {reason}" for name, reason in kept(result).items())


def transposed(folder: pathlib.Path) -> str:
    weight = normal(32, 16, 4)
    name = "decoder.up.0.conv_transpose.weight"
    source = make_model(folder / "m", {name: weight})
    quantize(source, folder / "q", transposed_patterns=["conv_transpose"], group_size=-1)
    tensor = stored(folder / "q")[name]
    want = quantize_layer(np.moveaxis(weight, 1, 0), bit_width=4, group_size=-1).dequantize()
    expect(tensor.quant_axis == 1, f"axis {tensor.quant_axis}")
    expect(np.array_equal(np.moveaxis(tensor.dequantize(), 1, 0), want), "the groups are not those of the outputs")
    return "16 rows, one for each output channel (axis 1); the file says the axis"
