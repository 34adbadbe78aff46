"""Checks of device, precision and disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from atp.checks.finding import Finding
from atp.data.folder import image_size, list_samples
from atp.data.labels import LabelSpace
from atp.errors import InputError
from atp.params import Params
from atp.runner import mounts
from atp.training.runtime import computes_bf16, find_device

BYTES_PER_PIXEL_AND_CLASS = 0.08
"""Disk use of an unfinished dump: 755 kB for 1024x512 pixels and 19 classes, docs/explanation/pseudo-labels.md."""


def check_machine(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """Check device, precision and disk."""
    try:
        device = find_device(params.runtime.device)
    except InputError as error:
        yield Finding("error", str(error))
    else:
        if params.training.precision == "bf16" and not computes_bf16(device):
            yield Finding(
                "warning", "params.yaml: training.precision is bf16, which this device only emulates; set auto or fp32"
            )
    how = (
        "hidden from sealed stages"
        if mounts.possible()
        else "sealed by Python alone, since mounts are not allowed here"
    )
    yield Finding("ok", f"source data and labels are {how}: docs/how-to/operating.md")
    if params.data.target.images.is_dir():
        samples = list_samples(params.data.target.images)
        width, height = params.data.size or image_size(samples[0].image)
        need = len(samples) * width * height * space.num_classes * BYTES_PER_PIXEL_AND_CLASS
        free = shutil.disk_usage(Path.cwd()).free
        level: Literal["ok", "warning"] = "warning" if free < 2 * need else "ok"
        yield Finding(
            level, f"{Path.cwd()}: {free / 1e9:.1f} GB free; a round of pseudo labels needs about {need / 1e6:.0f} MB"
        )
