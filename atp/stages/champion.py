"""Evaluate the champion's weights on the current test images, for the gate of ``register``.

Runs in a separate process, since the registering process cannot open the labels, and with our own code, since MLflow
runs a second version of a model with the code of the first.
"""

import json
import subprocess
import sys
from pathlib import Path

from atp.errors import InputError, exit_codes
from atp.params import load_params
from atp.registry.comparison import Again
from atp.registry.origin import ADAPTED
from atp.runner.parent import die_with_parent


def evaluate_again(checkpoint: Path) -> Again:
    """Evaluate a checkpoint on the test images of the parameters here, as the stage ``evaluate`` does."""
    command = [sys.executable, "-m", "atp.stages.champion", str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return Again(None, said[-1].removeprefix("error: ") if said else f"it ended with {done.returncode}")
    return Again(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Entry point of the separate process: prints ``Again`` as JSON."""
    with exit_codes():
        if len(sys.argv) != 2:
            raise InputError("usage: python -m atp.stages.champion CHECKPOINT")
        params = load_params()
        die_with_parent()
        from atp.data.folder import list_samples
        from atp.data.reading import Reading
        from atp.evaluation.evaluate import evaluate, percent
        from atp.models.checkpoint import load_checkpoint, network_from_checkpoint
        from atp.registry.package import use_code_of
        from atp.training.runtime import open_runtime

        use_code_of(Path(sys.argv[1]), load_checkpoint(Path(sys.argv[1])).config)
        network, space = network_from_checkpoint(Path(sys.argv[1]))
        if space.names != load_checkpoint(ADAPTED).label_space.names:
            print(json.dumps({"miou": None, "why": f"its classes differ: {', '.join(space.names)}"}))
            return
        samples = list_samples(params.data.test.images, params.data.test.labels, optional=True)
        with open_runtime(params.training, params.runtime) as runtime:
            # At its own size: a champion that was adapted at another one would be worse than it is in use.
            reading = params.data.reading if network.reading == Reading() else network.reading
            flip = params.evaluate.flip
            result = evaluate(
                network, samples, reading.size, runtime, window=reading.window, flip=flip, name="champion"
            )
        print(json.dumps({"miou": percent(result.confusion.mean_iou())}))


if __name__ == "__main__":
    main()
