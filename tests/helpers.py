"""Files for tests, made with numpy alone."""

from __future__ import annotations

import hashlib
import json
import pathlib
import struct

import numpy as np
import numpy.typing as npt

_NAMES = {
    "float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint16": "BF16", "bfloat16": "BF16",
    "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip

# For programs run by tests. ru_maxrss would count what the process was forked from, too.
PRINT_PEAK_KB = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file={file})"


def write_safetensors(path: pathlib.Path, tensors: dict[str, npt.NDArray[np.generic]]) -> None:
    """A .safetensors file; uint16 arrays are stored as BF16."""
    header: dict[str, object] = {}
    offset = 0
    for name, array in tensors.items():
        shape = list(array.shape)
        header[name] = {
            "dtype": _NAMES[str(array.dtype)],
            "shape": shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def unpack(data: npt.NDArray[np.uint8], count: int, bits: int) -> npt.NDArray[np.int64]:
    """Reference: codes of a little-endian bit stream."""
    stream = np.unpackbits(data, bitorder="little")[: count * bits].reshape(count, bits).astype(np.int64)
    return stream @ (1 << np.arange(bits))


def write_sparse_model(directory: pathlib.Path, rows: int, columns: int) -> pathlib.Path:
    """A model of one float32 weight of zeros that takes no space on the disk."""
    directory.mkdir()
    size = rows * columns * 4
    entry = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, size]}
    text = json.dumps({"blocks.0.attn.to_q.weight": entry}).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size)
    return directory


def digest(directory: pathlib.Path) -> str:
    """Of names and contents of all files."""
    h = hashlib.sha256()
    for file in sorted(p for p in directory.rglob("*") if p.is_file()):
        h.update(str(file.relative_to(directory)).encode() + file.read_bytes())
    return h.hexdigest()


def exact_codes_of(table, x, ranges, axis):
    """Codes that are not rounded: integer layers then compute their function in floating point, transforms and folded
    modules included."""
    shape = [x.shape[axis] if d == axis % x.dim() else 1 for d in range(x.dim())]
    scales = ranges.scales.repeat_interleave(ranges.block_size)[: x.shape[axis]].reshape(shape)
    return x.float() / scales
