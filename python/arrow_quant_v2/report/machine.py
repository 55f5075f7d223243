"""Versions and machine."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
from typing import Any

from arrow_quant_v2._native import core

_PACKAGES = ("numpy", "pyarrow", "torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """Of this package, Python, and what is installed of the packages that it uses."""
    found = {"arrow_quant": str(core.__version__), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine that the report is made on: system, cpu, cpus, instruction_set, memory_mb."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "instruction_set": core.active_isa(),
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6),
    }


def _cpu_name() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
