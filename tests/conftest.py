"""Shared fixtures."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest

# A shell that runs the tests in the background makes them ignore Ctrl-C, and the programs that they start inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demo_model() -> pathlib.Path:
    """The bfloat16 DiT that the project ships."""
    return ROOT / "examples" / "models" / "dit_mnist"


@pytest.fixture
def one_torch_thread():
    """For tiny tensors, where threads of torch only wait for each other on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_models() -> pathlib.Path:
    """The models beside the project; tests that need them are skipped where they are not."""
    path = pathlib.Path(os.environ.get("ARROW_QUANT_SHARED", ROOT.parent / "shared")) / "models"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path
