"""Arrow and numpy weights in and out, and batches of them: values, addresses, errors."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from arrow_quant_v2 import (
    ArrowQuantError,
    ConfigurationError,
    QuantizationError,
    QuantizedLayer,
    ShapeMismatchError,
    dequantize_arrow,
    quantize_arrow,
    quantize_batch,
    quantize_layer,
)
from arrow_quant_v2 import layer as layer_module
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

W = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)


def same(a: QuantizedLayer, b: QuantizedLayer) -> bool:
    parts = ("codes", "scales", "zero_points")
    return a.shape == b.shape and all(getattr(a, p).tobytes() == getattr(b, p).tobytes() for p in parts)


def as_tensor_array(array: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(array)


ARROW_FORMS = {
    "fixed_size_lists": lambda w: pa.FixedSizeListArray.from_arrays(pa.array(w.ravel()), w.shape[1]),
    "sliced_fixed_size_lists": lambda w: pa.FixedSizeListArray.from_arrays(
        pa.array(np.concatenate([w[:2], w]).ravel()), w.shape[1]
    )[2:],
    "tensors": as_tensor_array,
    "lists": lambda w: pa.array(list(w), pa.list_(pa.float32())),
    "large_lists": lambda w: pa.array(list(w), pa.large_list(pa.float32())),
    "chunks": lambda w: pa.chunked_array([pa.array(list(w[:5])), pa.array(list(w[5:]))]),
}


@pytest.mark.parametrize("form", ARROW_FORMS)
def test_every_arrow_form_is_the_numpy_matrix(form):
    array = ARROW_FORMS[form](W)
    assert same(quantize_layer(array, bit_width=4, group_size=16), quantize_layer(W, bit_width=4, group_size=16))
    table = quantize_arrow(array, 4, 16)
    assert table["shape"].to_pylist() == [[24, 40]]
    got = dequantize_arrow(table)["weights"][0].values.to_numpy().reshape(24, 40)
    np.testing.assert_array_equal(got, quantize_layer(W, bit_width=4, group_size=16).dequantize())


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, ml_dtypes.bfloat16])
def test_other_types_are_converted(dtype):
    weight = (W * 4).astype(dtype)
    want = quantize_layer(weight.astype(np.float32))
    assert same(quantize_layer(weight), want)
    if dtype is not ml_dtypes.bfloat16:
        assert same(quantize_layer(pa.FixedSizeListArray.from_arrays(pa.array(weight.ravel()), 40)), want)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=9), elements=st.floats(-99, 99, width=32)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from([16, 64, -1]),
)
def test_table_numpy_and_batch_agree(weights, bits, group):
    table = pa.table(
        {
            "layer_name": list(weights),
            "weights": [w.ravel() for w in weights.values()],
            "shape": [list(w.shape) for w in weights.values()],
        }
    )
    batch = quantize_batch(weights, bits, group)
    assert not batch.errors
    quantized = quantize_arrow(table, bits, group)
    restored = dequantize_arrow(quantized)
    assert quantized["layer_name"].to_pylist() == restored["layer_name"].to_pylist() == list(weights)
    for i, (name, weight) in enumerate(weights.items()):
        one = quantize_layer(weight, bit_width=bits, group_size=group)
        assert same(batch.layers[name], one)
        assert quantized["quantized_data"][i].as_py() == one.codes.tobytes()
        assert restored["shape"][i].as_py() == list(weight.shape)
        values = restored["weights"][i].values.to_numpy().reshape(weight.shape)
        np.testing.assert_array_equal(values, one.dequantize())


class Spy:
    """The core, with the addresses of what went in and came out."""

    def __init__(self, core):
        self._core = core
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.expanded: list[int] = []  # what went into dequantize_array, and came out

    def quantize_array(self, matrix, *rest):
        self.inputs.append(matrix.ctypes.data)
        result = self._core.quantize_array(matrix, *rest)
        self.outputs += [array.ctypes.data for array in result[:3]]
        return result

    def error_sums(self, w, q):
        return self._core.error_sums(w, q)

    def dequantize_array(self, codes, rows, cols, bits, group, scales, zeros, *rest):
        values = self._core.dequantize_array(codes, rows, cols, bits, group, scales, zeros, *rest)
        self.expanded += [array.ctypes.data for array in (codes, scales, zeros, values)]
        return values


@pytest.fixture
def spy(monkeypatch):
    spy = Spy(layer_module.core)
    monkeypatch.setattr(layer_module, "core", spy)
    return spy


def test_numpy_is_not_copied(spy):
    layer = quantize_layer(W, bit_width=4, group_size=16)
    assert spy.inputs == [W.ctypes.data]
    assert spy.outputs == [layer.codes.ctypes.data, layer.scales.ctypes.data, layer.zero_points.ctypes.data]
    spy.expanded.clear()
    values = layer.dequantize()
    assert spy.expanded == [array.ctypes.data for array in (layer.codes, layer.scales, layer.zero_points, values)]


@pytest.mark.parametrize("form", ["fixed_size_lists", "sliced_fixed_size_lists", "tensors"])
def test_an_arrow_array_is_not_copied(spy, form):
    array = ARROW_FORMS[form](W)
    storage = array.storage if form == "tensors" else array
    quantize_arrow(array)
    start = storage.values.buffers()[-1].address + storage.offset * 40 * 4
    assert spy.inputs[1:] == [start]  # after the check of the arguments


def test_tables_are_not_copied_either_way(spy):
    table = pa.table({"layer_name": ["a", "b"], "weights": [W.ravel(), W[:3].ravel()], "shape": [[24, 40], [3, 40]]})
    values = table["weights"].chunk(0).values.buffers()[1].address
    quantized = quantize_arrow(table, 4, 16)
    # The argument check of the batch comes first.
    assert spy.inputs[1:] == [values, values + W.nbytes]
    columns = [quantized[name] for name in ("quantized_data", "scales", "zero_points")]
    addresses = [
        (c.chunk(i).buffers()[2] if c.type == pa.large_binary() else c.chunk(i).values.buffers()[1]).address
        for i in (0, 1)
        for c in columns
    ]
    assert spy.outputs[3:] == addresses
    spy.expanded.clear()
    restored = dequantize_arrow(quantized)
    values_out = [restored["weights"].chunk(i).values.buffers()[1].address for i in (0, 1)]
    assert spy.expanded == [*addresses[:3], values_out[0], *addresses[3:], values_out[1]]


class Foreign:
    """What another library hands over through the C Data Interface."""

    def __init__(self, array: pa.Array):
        self._array = array

    def __arrow_c_array__(self, requested_schema=None):
        return self._array.__arrow_c_array__(requested_schema)


class ForeignTable:
    def __init__(self, table: pa.Table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def test_the_c_data_interface_is_taken_without_copies(spy):
    array = ARROW_FORMS["fixed_size_lists"](W)
    quantize_layer(Foreign(array), bit_width=4, group_size=16)
    assert spy.inputs == [array.values.buffers()[1].address]
    table = pa.table({"weights": [W[0]]})
    assert quantize_arrow(ForeignTable(table))["layer_name"].to_pylist() == ["weight_0"]
    assert spy.inputs[-1] == table["weights"].chunk(0).values.buffers()[1].address


def test_the_result_goes_out_through_the_c_data_interface():
    quantized = quantize_arrow(ARROW_FORMS["tensors"](W))
    again = pa.table(ForeignTable(quantized))
    assert again.equals(quantized)
    address = quantized["quantized_data"].chunk(0).buffers()[2].address
    assert again["quantized_data"].chunk(0).buffers()[2].address == address
    assert ctypes.string_at(address, 4) == quantized["quantized_data"][0].as_py()[:4]


def test_results_outlive_their_inputs():
    quantized = quantize_arrow(ARROW_FORMS["fixed_size_lists"](W.copy()))
    restored = dequantize_arrow(quantized)
    want = quantize_layer(W).dequantize().ravel()
    del quantized
    np.testing.assert_array_equal(restored["weights"][0].values.to_numpy(), want)


BAD = np.array([[1, np.nan]], np.float32)


def test_continue_on_error_collects_by_name():
    given_weights = {"good": W, "nan": BAD, "empty": np.zeros((0, 3)), "words": ["a"], "nulls": pa.array([1.0, None])}
    result = quantize_batch(given_weights, continue_on_error=True)
    assert list(result.layers) == ["good"]
    assert {name: type(error) for name, error in result.errors.items()} == {
        "nan": QuantizationError, "empty": ShapeMismatchError, "words": ConfigurationError, "nulls": QuantizationError,
    }  # fmt: skip
    assert all(f"tensor '{name}'" in str(error) and error.tensor == name for name, error in result.errors.items())
    with pytest.raises(QuantizationError, match="tensor 'nan'"):
        quantize_batch(given_weights)


@pytest.mark.parametrize("arguments", [{"bit_width": 5}, {"group_size": 0}, {"fit": "best"}])
def test_a_wrong_argument_is_no_error_of_a_weight(arguments):
    with pytest.raises(ConfigurationError):
        quantize_batch({"a": W}, continue_on_error=True, **arguments)


def test_batches_may_be_pairs_with_unique_names():
    seen: list[tuple[str, float]] = []
    result = quantize_batch([("a", W), ("b", W[:2])], progress_callback=lambda *news: seen.append(news))
    assert list(result.layers) == ["a", "b"]
    assert seen == [("a", 0.5), ("b", 1.0)]
    with pytest.raises(ConfigurationError, match=r"'a'.*twice"):
        quantize_batch([("a", W), ("a", W)])


@pytest.mark.parametrize("weights", [None, 3, "text", W, [W], [("a",)]])
def test_what_is_no_batch_is_refused(weights):
    with pytest.raises(ConfigurationError):
        quantize_batch(weights)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        (None, ConfigurationError),
        (W, ConfigurationError),
        (pa.table({"x": [1.0]}), ConfigurationError),
        (pa.table({"weights": pa.array([], pa.list_(pa.float32()))}), ShapeMismatchError),
        (pa.table({"weights": [[1.0, 2.0]], "shape": [[3, 1]]}), ShapeMismatchError),
        (pa.table({"weights": [[1.0, 2.0]], "shape": [[-1, 2]]}), ShapeMismatchError),
        (pa.table({"weights": [[1.0, None]]}), QuantizationError),
        (pa.table({"weights": pa.array([None], pa.list_(pa.float32()))}), QuantizationError),
        (pa.table({"weights": [["a"]]}), ConfigurationError),
        (pa.array([[1.0], [1.0, 2.0]]), ShapeMismatchError),
        (pa.array([1.0, float("inf")], pa.float32()), QuantizationError),
    ],
)
def test_bad_arrow_input(table, error):
    with pytest.raises(error):
        quantize_arrow(table)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scales", [1.0]), ("shape", [5, 5]), ("bit_width", 5), ("quantized_data", b"123"), ("scales", None),
        ("shape", []), ("shape", [0, 40]), ("group_size", 7), ("group_size", -3),
    ],
)  # fmt: skip
def test_bad_quantized_rows_are_refused(column, value):
    table = quantize_arrow(ARROW_FORMS["tensors"](W))
    at = table.column_names.index(column)
    broken = table.set_column(at, column, pa.array([value], table.schema.field(column).type))
    with pytest.raises(ArrowQuantError):
        dequantize_arrow(broken)
    with pytest.raises(ConfigurationError, match=column):
        dequantize_arrow(table.drop_columns([column]))
