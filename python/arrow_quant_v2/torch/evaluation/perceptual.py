"""LPIPS and FID, which take networks that torchmetrics knows."""

from __future__ import annotations

import importlib
from typing import Any

import torch

INSTALL = "torchmetrics is not installed; get it with: pip install 'arrow-quant-v2[perceptual]'"


class Perceptual:
    """Zhang et al. 2018 (LPIPS, AlexNet) and Heusel et al. 2017 (FID, Inception), by torchmetrics.

    Its networks may have to be fetched. What cannot be had is None, with the reason.
    """

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self._lpips = self._make("lpips", "torchmetrics.image.lpip", "LearnedPerceptualImagePatchSimilarity")
        self._fid = self._make("fid", "torchmetrics.image.fid", "FrechetInceptionDistance", normalize=True)

    def _make(self, name: str, module: str, metric: str, **options: Any) -> Any:
        try:
            return getattr(importlib.import_module(module), metric)(**options)
        except Exception as error:  # of torchmetrics, torchvision or the network: the figures go on without
            absent = isinstance(error, ModuleNotFoundError) and error.name in ("torchmetrics", "torchmetrics.image")
            self.missing[name] = INSTALL if absent else f"torchmetrics: {error}"
            return None

    def add(self, want: torch.Tensor, got: torch.Tensor) -> None:
        """Pictures [batch, 3, height, width] in [-1, 1]."""
        if self._lpips is not None and self._has_worked("lpips", lambda: self._lpips.update(got, want)) is False:
            self._lpips = None
        if self._fid is not None and self._has_worked("fid", lambda: self._add_fid(want, got)) is False:
            self._fid = None

    def _add_fid(self, want: torch.Tensor, got: torch.Tensor) -> None:
        self._fid.update((want + 1) / 2, real=True)
        self._fid.update((got + 1) / 2, real=False)

    def _has_worked(self, name: str, action: Any) -> bool:
        try:
            action()
        except Exception as error:  # such as pictures that are too small for the network
            self.missing[name] = f"torchmetrics: {error}"
            return False
        return True

    def figures(self) -> tuple[dict[str, float | None], dict[str, str]]:
        values: dict[str, float | None] = {}
        for name, metric in (("lpips", self._lpips), ("fid", self._fid)):
            values[name] = None if metric is None else self._value(name, metric)
        return values, self.missing

    def _value(self, name: str, metric: Any) -> float | None:
        found: list[float] = []
        self._has_worked(name, lambda: found.append(float(metric.compute())))
        return found[0] if found else None
