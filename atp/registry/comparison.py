"""Comparable evaluations: two models are compared only on the same test images, measured in the same way."""

import json
from dataclasses import dataclass
from hashlib import sha256

from atp.code import code_digests
from atp.files import digest
from atp.params import Params
from atp.registry.origin import read_metrics


@dataclass(frozen=True)
class Again:
    """The evaluation of another version's weights on the current test images.

    Attributes:
        miou: percent; None if they cannot be compared.
        why: reason why they cannot.
    """

    miou: float | None
    why: str = ""


def evaluation_digest(params: Params) -> str | None:
    """Digest of the test images, their labels, and the evaluation's code and settings; None without labels."""
    test = params.data.test
    if test.labels is None or not test.labels.is_dir():
        return None
    settings = {
        "size": params.data.size,
        "window": params.data.window,
        "flip": params.evaluate.flip,
        # The precision that auto resolved to on the machine that evaluated, which may be another one.
        "precision": read_metrics().get("precision", params.training.precision),
        "images": digest(test.images),
        "labels": digest(test.labels),
        "code": code_digests("atp.evaluation.evaluate"),
    }
    return f"sha256:{sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}"
