"""Shared fixtures."""

from __future__ import annotations

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demo_model() -> pathlib.Path:
    """The bfloat16 DiT that the project ships."""
    return ROOT / "examples" / "models" / "dit_mnist"


@pytest.fixture(scope="session")
def shared_models() -> pathlib.Path:
    """The models beside the project; tests that need them are skipped where they are not."""
    path = pathlib.Path(os.environ.get("ARROW_QUANT_SHARED", ROOT.parent / "shared")) / "models"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path
