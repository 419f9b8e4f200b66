"""Where a result was measured, and with which versions."""

import platform
from pathlib import Path

import torch

import stiefel


def describe_machine(device: str) -> dict[str, str]:
    """Names and versions that a reader needs in order to measure the same again."""
    return {
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "stiefel": stiefel.__version__,
    }


def _processor() -> str:
    # platform.processor() is empty on most Linux systems; the kernel knows the name.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
