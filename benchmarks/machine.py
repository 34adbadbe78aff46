"""The machine and versions that a benchmark ran on."""

import platform
from pathlib import Path

import torch


def machine() -> str:
    with Path("/proc/cpuinfo").open() as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "CPU")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu}, {torch.get_num_threads()} threads"
    return f"{device}; Python {platform.python_version()}, PyTorch {torch.__version__}"
