"""Models whose class is Python code beside their weights: run only when the user says so."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from arrow_quant_v2.errors import MetadataError


def remote_model(root: pathlib.Path, auto_map: Mapping[str, Any], name: str, allowed: bool) -> nn.Module:
    """The class ``name`` of the folder's own code with fresh weights.

    Args:
        auto_map: of config.json: transformers' Auto classes and the "file.Class" that each stands for.

    Raises:
        MetadataError: code is not allowed, or config.json names none in this folder.
    """
    if not allowed:
        raise MetadataError.compose(
            f"'{name}' is a class of the folder's own code, which is not run unless it is allowed",
            file=str(root / "config.json"),
            remedy="Look at the code; then use --allow-remote-code or allow_remote_code=True.",
        )
    for reference in auto_map.values():
        _refuse_other_repositories(root, reference)
    transformers = importlib.import_module("transformers")
    settings = transformers.AutoConfig.from_pretrained(root, trust_remote_code=True, local_files_only=True)
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config  # ours, not one of transformers
    auto = getattr(transformers, _auto_class(root, auto_map, name))
    model: nn.Module = auto.from_config(settings, trust_remote_code=True)
    return model


def _refuse_other_repositories(root: pathlib.Path, reference: Any) -> None:
    """Code is what the user could look at: files of this folder, not of a repository that the reference names."""
    if isinstance(reference, str) and "--" not in reference:
        return
    raise MetadataError.compose(
        f"auto_map names {reference!r}, which is no code of this folder",
        file=str(root / "config.json"),
        remedy="Copy that code into the folder, or build the model yourself and give it as model=.",
    )


def _auto_class(root: pathlib.Path, auto_map: Mapping[str, str], name: str) -> str:
    for auto, reference in auto_map.items():
        if auto.startswith("AutoModel") and reference.rpartition(".")[2] == name:
            return auto
    raise MetadataError.compose(
        f"auto_map names no model class '{name}'", file=str(root / "config.json"), remedy="Give it as model=."
    )
