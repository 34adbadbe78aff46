"""Stage ``propagate``: see ``atp.method.propagate``."""

import json
from pathlib import Path

from atp.method.propagate import paired_images, propagate
from atp.params import Params
from atp.pseudo_labels.store import PseudoLabelStore
from atp.runner.stage import Stage, run_stage
from atp.runs import RANKING, SPLIT, SPLIT_LABELS
from atp.stages.judged import begin, hand_on


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.target.images, params.split.model, SPLIT]


def body(stage: Stage) -> None:
    settings = stage.params.propagate
    network, taught = begin(stage, stage.params.split.model)
    ranking = json.loads(RANKING.read_text())
    labels = PseudoLabelStore(SPLIT_LABELS)
    images, weights = paired_images(stage.target(), ranking["easy"], ranking["hard"], labels, settings)
    handed_on, history = propagate(network, images, settings, stage.run(), weights)
    hand_on(stage, handed_on, taught, history)


def main() -> None:
    run_stage("propagate", body, inputs)


if __name__ == "__main__":
    main()
