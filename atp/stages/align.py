"""Stage ``align``: the method that ``align.method`` names."""

from pathlib import Path

from atp.method.choice import align_with
from atp.params import Params, needed
from atp.runner.stage import Stage, run_stage
from atp.runs import SOURCE
from atp.stages.judged import begin, hand_on


def inputs(params: Params, key: str | None) -> list[Path]:
    return [params.data.target.images, SOURCE]


def body(stage: Stage) -> None:
    section = needed(stage.params.align, "align")
    network, source = begin(stage, SOURCE)
    history = align_with(section, network, stage.target(), stage.run())
    hand_on(stage, network, source, history)


def main() -> None:
    run_stage("align", body, inputs)


if __name__ == "__main__":
    main()
