"""Stage ``distill``: see ``atp.method.distill``."""

from pathlib import Path

import torch

from atp.black_box.answers import AnswerStore, StoredAnswers
from atp.evaluation.evidence.guard import Beginning
from atp.method.distill import distill
from atp.models.checkpoint import Checkpoint
from atp.models.network import build_network
from atp.params import Params, needed
from atp.runner.stage import Stage, run_stage
from atp.runs import ANSWERS
from atp.stages.judged import hand_on


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.target.images, ANSWERS, *params.model.own_code]


def body(stage: Stage) -> None:
    section = needed(stage.params.distill, "distill")
    store = AnswerStore(ANSWERS)
    space = store.label_space
    config = stage.network_config(space)
    torch.manual_seed(stage.seed)
    network = build_network(config)
    images = stage.target().augmented(section.augmentation, StoredAnswers(store, soft=section.answers == "soft"))
    history = distill(network, images, section, stage.run())
    made_from = Checkpoint(config=config, label_space=space, state={}, made_by={})
    hand_on(stage, network, Beginning(made_from), history)


def main() -> None:
    run_stage("distill", body, inputs)


if __name__ == "__main__":
    main()
