"""Stage ``answer`` of paper/dvc.yaml: the source model as a black box, queried once per target and test image.

The answers are all that black_box/ sees of the model. Writes, below ``runs/answer``:

- ``target/<name>.npz``, ``test/<name>.npz``: the most probable classes of each pixel and their probabilities.
- ``classes.yaml``: the classes.
"""

from pathlib import Path

import numpy as np

from atp.black_box.answers import Answer
from atp.data.folder import list_samples
from atp.data.masks import write_classes
from atp.params import Params
from atp.runner.stage import Stage, run_stage
from atp.runs import SOURCE
from atp.training.prediction import Predictor, chunks, read_chunks
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
            for some, images in read_chunks(chunks(samples, data.size), data.size):
                for sample, probabilities in zip(some, predictor.probabilities(images).cpu(), strict=True):
                    answer = Answer.of(probabilities, KEPT)
                    path = folder / part / f"{sample.name}.npz"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    np.savez_compressed(
                        path,
                        classes=answer.classes.numpy(),
                        probabilities=answer.probabilities.numpy().astype(np.float16),
                    )
                    progress.advance()


def main() -> None:
    run_stage("answer", body, inputs, opened=opened)


if __name__ == "__main__":
    main()
