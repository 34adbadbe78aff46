"""Stage ``teach``: see ``atp.method.teach``."""

from pathlib import Path

from atp.method.teach import taught_images, teach
from atp.params import Params
from atp.pseudo_labels.store import PseudoLabelStore
from atp.runner.stage import Stage, run_stage
from atp.runs import OPTIMIZER, dumped
from atp.stages.judged import begin, hand_on
from atp.training.carried import Carried


def inputs(params: Params, key: str | None) -> list[Path]:
    assert key is not None, "run_stage asks for it"
    return [params.data.target.images, params.rounds[key].model, dumped(key)]


def body(stage: Stage) -> None:
    assert stage.key is not None, "run_stage asks for it"
    settings = stage.params.teach
    model = stage.params.rounds[stage.key].model
    network, taught = begin(stage, model)
    carried = Carried.read(model / OPTIMIZER, settings.rounds_per_schedule)
    images = taught_images(stage.target(), PseudoLabelStore(dumped(stage.key)), settings)
    handed_on, history = teach(network, images, settings, stage.params.dump, stage.run(), carried)
    hand_on(stage, handed_on, taught, history, lambda folder: carried.write(folder / OPTIMIZER))


def main() -> None:
    run_stage("teach", body, inputs, rounds=True)


if __name__ == "__main__":
    main()
