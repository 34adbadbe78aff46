"""Stage ``answer`` of paper/dvc.yaml: the source model as a black box, queried once per target and test image.

The answers are all that black_box/ sees of the model. Writes, below ``runs/answer``:

- ``target/<name>.npz``, ``test/<name>.npz``: the most probable classes of each pixel and their probabilities.
- ``classes.yaml``: the classes.
"""

from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from atp.black_box.answers import Answer
from atp.data.folder import Sample, list_samples
from atp.data.masks import write_classes
from atp.data.prepared import UNPREPARED
from atp.params import Params
from atp.runner.stage import Stage, run_stage
from atp.runs import SOURCE
from atp.training.prediction import Predictor, chunks, pass_over
from atp.training.progress import Progress

ALONE = True

KEPT = 4
"""Number of most probable classes kept per pixel: the default of ``query.keep``."""


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.target.images, params.data.test.images, SOURCE]


def opened(params: Params) -> list[Path]:
    """The test images: the box's answers to them give its own mIoU."""
    return [params.data.test.images]


def body(stage: Stage) -> None:
    if not stage.runtime.is_main:
        return
    data = stage.params.data
    network, checkpoint = stage.load(SOURCE)
    predictor = Predictor([(network, 1.0)], stage.runtime)
    asked = {part: list_samples(getattr(data, part).images) for part in ("target", "test")}
    with stage.output() as folder, Progress(stage.label, sum(map(len, asked.values()))) as progress:
        write_classes(folder / "classes.yaml", checkpoint.label_space)
        for part, samples in asked.items():
            write = partial(write_answer, folder / part)
            parts, read = chunks(samples, data.size), partial(UNPREPARED.image, size=data.size)
            for _ in pass_over(parts, read, stage.runtime, predictor.probabilities, write):
                progress.advance()


def write_answer(folder: Path, sample: Sample, probabilities: Tensor) -> None:
    answer = Answer.of(probabilities.cpu(), KEPT)
    path = folder / f"{sample.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, classes=answer.classes.numpy(), probabilities=answer.probabilities.numpy().astype(np.float16)
    )


def main() -> None:
    run_stage("answer", body, inputs, opened=opened)


if __name__ == "__main__":
    main()
