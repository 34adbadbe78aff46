"""The same evaluation for two models: which one it is, and another version's weights put through it.

Only what ``evaluate`` measured on the same test images, in the same way, may be compared. Other weights are therefore
evaluated anew, by our own code (MLflow runs a second version of a model with the first one's), and in a process of
their own: the one that registers cannot open the labels.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import atp
from atp.config import Params, load_params
from atp.errors import InputError, exit_codes
from atp.files import digest
from atp.registry.origin import ADAPTED
from atp.stages.process import die_with_parent

CODE = ("data", "losses", "models", "training", "stages/evaluate.py")
"""The part of this package that decides a figure."""


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
    package = Path(atp.__file__).parent
    settings = {
        "size": params.data.size,
        "flip": params.evaluate.flip,
        "precision": params.training.precision,
        "images": digest(test.images),
        "labels": digest(test.labels),
        "code": [digest(path) for folder in CODE for path in _modules(package / folder)],
    }
    return f"sha256:{sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}"


def _modules(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def evaluate_again(checkpoint: Path) -> Again:
    """Evaluate a checkpoint on the test images of the parameters here, in a process of its own."""
    command = [sys.executable, "-m", "atp.registry.comparison", str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return Again(None, said[-1].removeprefix("error: ") if said else f"it ended with {done.returncode}")
    return Again(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """That process: prints ``Again`` as JSON."""
    with exit_codes():
        if len(sys.argv) != 2:
            raise InputError("usage: python -m atp.registry.comparison CHECKPOINT")
        params = load_params()
        die_with_parent()
        from atp.data.folder import list_samples
        from atp.models.checkpoint import load_checkpoint, network_from_checkpoint
        from atp.stages.evaluate import evaluate, percent
        from atp.training.runtime import open_runtime

        network, space = network_from_checkpoint(Path(sys.argv[1]))
        if space.names != load_checkpoint(ADAPTED).label_space.names:
            print(json.dumps({"miou": None, "why": f"its classes are others: {', '.join(space.names)}"}))
            return
        samples = list_samples(params.data.test.images, params.data.test.labels)
        with open_runtime(params.training, params.runtime) as runtime:
            result = evaluate(network, samples, params.data.size, runtime, flip=params.evaluate.flip, name="champion")
        print(json.dumps({"miou": percent(result.confusion.mean_iou())}))


if __name__ == "__main__":
    main()
