"""Read a quantized model with pyarrow and numpy alone, by docs/format.md, on a little-endian machine."""

import json
import pathlib
import sys

import numpy as np
import pyarrow.parquet as pq


def kept(data, dtype):  # numpy lacks bfloat16 and 8-bit floats: those become float32
    if dtype == "bfloat16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype == "float8_e5m2":
        return (np.frombuffer(data, np.uint8).astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "float8_e4m3fn":
        byte = np.frombuffer(data, np.uint8).astype(np.uint16)
        values = ((byte & 128) << 8 | (byte & 127) << 7).view(np.float16) * np.float32(256)
        return np.where(byte & 127 == 127, np.float32(np.nan), values)
    return np.frombuffer(data, dtype)


def dequantized(row, rows, cols, bits):
    stream = np.unpackbits(np.frombuffer(row["data"], np.uint8), bitorder="little")[: rows * cols * bits]
    codes = stream.reshape(rows, cols, bits) @ (1 << np.arange(bits))
    grids = [row[name] for name in ("scales", "zero_points", "residual_scales") if row[name]]
    wide = [np.repeat(np.float32(grid).reshape(rows, -1), row["group_size"], axis=1)[:, :cols] for grid in grids]
    scale, zero, *residual = wide
    values = scale * (codes.astype(np.float32) - zero)
    if row["grid"] == "residual_binary":
        values = zero + np.where(codes & 2, scale, -scale) + np.where(codes & 1, residual[0], -residual[0])
    if row["rotation_seed"] is not None:
        values = turned_back(values, row["rotation_seed"])
    return values * np.float32(row["equalization_scales"] or 1)


def turned_back(values, seed):
    begin, size = 0, 64
    while begin < values.shape[1]:
        size = min(size, 1 << (values.shape[1] - begin).bit_length() - 1)
        block, half = values[:, begin : begin + size], 1
        while half < size:  # butterflies, written into `values`
            pairs = block.reshape(len(block), -1, 2, half)
            sums = pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]
            block, half = np.stack(sums, 2).reshape(len(block), size), 2 * half
        values[:, begin : begin + size] = block * np.float32(size**-0.5)
        begin += size
    z = np.uint64(seed) + np.arange(1, values.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.where((z ^ z >> np.uint64(31)) & np.uint64(1), -values, values)


def read(folder):
    """Arrays by (component, name): float32 of what is quantized, of what is kept in its own type."""
    tensors = {}
    for file in json.loads((pathlib.Path(folder) / "manifest.json").read_text())["files"]:
        for batch in pq.ParquetFile(pathlib.Path(folder) / file["path"]).iter_batches(1):
            (row,) = batch.to_pylist()
            axis, bits, shape = row["quant_axis"] or 0, row["bits"], row["shape"]
            moved = (*shape[axis : axis + 1], *shape[:axis], *shape[axis + 1 :])
            cols = int(np.prod(moved[row["row_rank"] :]))
            part = dequantized(row, row["row_count"], cols, bits) if bits else kept(row["data"], row["dtype"])
            parts = tensors.setdefault((row["component"], row["layer_name"]), (axis, moved, {}))[2]
            parts[row["row_begin"]] = part.ravel()
    for key, (axis, moved, parts) in tensors.items():
        whole = np.concatenate([parts[begin] for begin in sorted(parts)]).reshape(moved)
        tensors[key] = np.moveaxis(whole, 0, axis) if axis else whole
    return tensors


if __name__ == "__main__":
    for (component, name), values in read(sys.argv[1]).items():
        print(component, name, values.dtype, values.shape)
