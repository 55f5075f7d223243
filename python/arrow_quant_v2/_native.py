"""Load the C++ core after the Arrow libraries that it was linked with."""

from __future__ import annotations

import ctypes
import pathlib
from typing import Any

import pyarrow
import scipy_openblas32

# The core's run path names both wheels' folders as they lie beside it in site-packages; in an editable install or a
# source tree they lie elsewhere, so BLAS is loaded here as importing pyarrow has loaded Arrow.
ctypes.CDLL(str(pathlib.Path(scipy_openblas32.get_lib_dir()) / "libscipy_openblas.so"), mode=ctypes.RTLD_GLOBAL)

try:
    from arrow_quant_v2 import _core
except ImportError as error:
    raise ImportError(
        f"the core of arrow_quant_v2 cannot be loaded with pyarrow {pyarrow.__version__}: {error}. "
        "Install pyarrow==26.0.* or build arrow_quant_v2 again."
    ) from error

core: Any = _core  # its generated stub leaves array types open

if core.arrow_version.split(".")[:2] != pyarrow.__version__.split(".")[:2]:
    raise ImportError(
        f"arrow_quant_v2 was built against pyarrow {core.arrow_version}, but {pyarrow.__version__} is installed. "
        f"Install pyarrow=={core.arrow_version} or build arrow_quant_v2 again."
    )

__all__ = ["core"]
