"""The same evaluation for two models: only what was measured on the same test images, in the same way, is compared."""

import json
from dataclasses import dataclass
from hashlib import sha256

from atp.code import code_digests
from atp.files import digest
from atp.params import Params
from atp.registry.origin import read_metrics


@dataclass(frozen=True)
class Again:
    """Another version's weights on the test images.

    Attributes:
        miou: percent; None if they cannot be compared.
        why: they cannot.
    """

    miou: float | None
    why: str = ""


def evaluation_digest(params: Params) -> str | None:
    """Of the test images, their labels, and the code and settings that measure on them; None without labels."""
    test = params.data.test
    if test.labels is None or not test.labels.is_dir():
        return None
    settings = {
        "size": params.data.size,
        "flip": params.evaluate.flip,
        # What auto came to where it was measured, which may have been another machine.
        "precision": read_metrics().get("precision", params.training.precision),
        "images": digest(test.images),
        "labels": digest(test.labels),
        "code": code_digests("atp.evaluation.evaluate"),
    }
    return f"sha256:{sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}"
