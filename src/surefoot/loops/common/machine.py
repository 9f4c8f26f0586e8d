"""The machine that a process runs on, as records and reports name it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """The system, the processor with its number of cores, and the GPUs."""
    found: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "processor": processor()}
    found["cores"] = os.cpu_count() or 0
    if torch.cuda.is_available():
        try:
            found["gpu"] = torch.cuda.get_device_name(0)
        except (AssertionError, RuntimeError):  # a GPU without its driver, or a torch that was built without CUDA
            found["gpu"] = "unknown"
    return found


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
