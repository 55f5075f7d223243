"""Files for tests, made with numpy alone."""

from __future__ import annotations

import json
import pathlib
import struct

import numpy as np
import numpy.typing as npt

_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint16": "BF16", "bool": "BOOL"}

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
