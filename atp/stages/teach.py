"""Stage ``teach``: see ``atp.method.teach``."""

from pathlib import Path

from atp.method.teach import taught_images, teach
from atp.params import Params
from atp.pseudo_labels.store import PseudoLabelStore
from atp.runner.stage import Stage, run_stage
from atp.runs import dumped
from atp.stages.judged import begin, hand_on


def inputs(params: Params, key: str | None) -> list[Path]:
    assert key is not None, "run_stage asks for it"
    return [params.data.target.images, params.rounds[key].model, dumped(key)]


def body(stage: Stage) -> None:
    assert stage.key is not None, "run_stage asks for it"
    settings = stage.params.teach
    network, taught = begin(stage, stage.params.rounds[stage.key].model)
    images = taught_images(stage.target(), PseudoLabelStore(dumped(stage.key)), settings)
    handed_on, history = teach(network, images, settings, stage.params.dump, stage.run())
    hand_on(stage, handed_on, taught, history)


def main() -> None:
    run_stage("teach", body, inputs, rounds=True)


if __name__ == "__main__":
    main()
