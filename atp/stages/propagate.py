"""Stage ``propagate``: see ``atp.method.propagate``."""

import json
from pathlib import Path

from atp.data.arrays import damaged
from atp.data.loading import Images
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
    target = stage.target()
    easy, hard = ranked(target)
    labels = PseudoLabelStore(SPLIT_LABELS)
    images, weights = paired_images(target, easy, hard, labels, settings)
    handed_on, history = propagate(network, images, settings, stage.run(), weights)
    hand_on(stage, handed_on, taught, history)


def ranked(target: Images) -> tuple[list[str], list[str]]:
    """Names of the easy and of the hard images.

    Raises:
        InputError: the file is damaged, or ranks other images.
    """
    try:
        tree = json.loads(RANKING.read_bytes())
        easy, hard = list(tree["easy"]), list(tree["hard"])
        if sorted(easy + hard) != sorted(sample.name for sample in target.samples) or not (easy and hard):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(RANKING, "split") from error
    return easy, hard


def main() -> None:
    run_stage("propagate", body, inputs)


if __name__ == "__main__":
    main()
