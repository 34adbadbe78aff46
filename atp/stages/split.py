"""Stage ``split``: easy and hard target images by mean entropy (Sec. 3.3, Eq. 9), and the labels of both.

One pass of the last round's model gives the ranking and the pseudo labels on which ``propagate`` builds.
"""

import shutil
from pathlib import Path

from atp.method.split import split
from atp.params import Params
from atp.runner.stage import Stage, forget, run_stage, write_json
from atp.runs import RANKING, SPLIT_LABELS
from atp.stages.dump import label_target, labelling_inputs, log_labels


def inputs(params: Params, key: str | None) -> list[Path]:
    return labelling_inputs(params, params.split.model)


def body(stage: Stage) -> None:
    # The labels are written next to the result's folder and moved into it when complete.
    labels = stage.state.with_suffix(".labels")
    table = label_target(stage, stage.params.split.model, labels)
    if table is not None:
        entropies = {row["name"]: row["entropy"] for row in table["images"]}
        easy, hard = split(entropies, stage.params.split.easy_ratio)
        with stage.output() as folder:
            # Not a rename: .atp may be on another disk.
            shutil.move(labels, folder / SPLIT_LABELS.name)
            write_json(folder / RANKING.name, {"easy": easy, "hard": hard, "entropy": entropies})
        forget(stage.label)
        log_labels(stage, table)
        stage.tracker.artifacts(stage.folder / RANKING.name)
    stage.runtime.barrier()


def main() -> None:
    run_stage("split", body, inputs)


if __name__ == "__main__":
    main()
