"""ATP: source-free adaptation of semantic-segmentation models (align, teach, propagate)."""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atp.api import adapt, load_model, predict, wrap
    from atp.data.labels import LabelSpace
    from atp.data.settings import Augmentation
    from atp.errors import InputError
    from atp.method.settings import AdaptSettings, AlignSettings, DumpSettings, PropagateSettings, TeachSettings

__version__ = "0.1.0"

__all__ = [
    "AdaptSettings",
    "AlignSettings",
    "Augmentation",
    "DumpSettings",
    "InputError",
    "LabelSpace",
    "PropagateSettings",
    "TeachSettings",
    "adapt",
    "load_model",
    "predict",
    "wrap",
]

# Set before torch loads its OpenMP library, which reads it. Spinning threads occupy cores that other processes need,
# and a training step then takes twenty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "atp.api": ("adapt", "load_model", "predict", "wrap"),
    "atp.data.labels": ("LabelSpace",),
    "atp.data.settings": ("Augmentation",),
    "atp.errors": ("InputError",),
    "atp.method.settings": (
        "AdaptSettings",
        "AlignSettings",
        "DumpSettings",
        "PropagateSettings",
        "TeachSettings",
    ),
}


def __getattr__(name: str) -> object:
    """Import public names on first use: importing PyTorch takes seconds, which the command line can do without."""
    for module, names in _HOMES.items():
        if name in names:
            # Not an import statement: a registered model ships all that its modules import, and would ship these too.
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'atp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
