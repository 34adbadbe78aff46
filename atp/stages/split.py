"""Stage ``split``: easy and hard target images by mean entropy (Sec. 3.3, Eq. 9), and the labels of both.

One pass of the last round's model gives the ranking and the pseudo labels on which ``propagate`` builds.
"""

from collections.abc import Mapping
from pathlib import Path

from atp.config import Params
from atp.stages.dump import label_target, labelling_inputs, log_labels
from atp.stages.stage import Stage, forget, run_stage, write_json


def split(entropies: Mapping[str, float], easy_ratio: float) -> tuple[list[str], list[str]]:
    """Names of the easy and of the hard images, each from low to high entropy; both get at least one.

    Args:
        entropies: mean normalised entropy over valid pixels by image name, in [0, 1]. Equal ones are ranked by name, so
            that the split does not hang on the order of files.
        easy_ratio: share of easy images.

    Raises:
        ValueError: fewer than two images.
    """
    if len(entropies) < 2:
        raise ValueError("two images at least can be split")
    ranking = sorted(entropies, key=lambda name: (entropies[name], name))
    easy = min(max(1, round(len(ranking) * easy_ratio)), len(ranking) - 1)
    return ranking[:easy], ranking[easy:]


def inputs(params: Params, key: str | None) -> list[Path]:
    return labelling_inputs(params, params.split.model)


def body(stage: Stage) -> None:
    # The labels are made beside the result's folder and join it whole.
    labels = stage.state.with_suffix(".labels")
    table = label_target(stage, stage.params.split.model, labels)
    if table is not None:
        entropies = {row["name"]: row["entropy"] for row in table["images"]}
        easy, hard = split(entropies, stage.params.split.easy_ratio)
        with stage.output() as folder:
            labels.rename(folder / "labels")
            write_json(folder / "ranking.json", {"easy": easy, "hard": hard, "entropy": entropies})
        forget(stage.label)
        log_labels(stage, table)
        stage.tracker.artifacts(stage.folder / "ranking.json")
    stage.runtime.barrier()


def main() -> None:
    run_stage("split", body, inputs)


if __name__ == "__main__":
    main()
