"""Stage ``dump``: see ``atp.method.dump``."""

import logging
from pathlib import Path

from atp.method.dump import dump
from atp.params import Params
from atp.pseudo_labels.store import Table
from atp.runner.stage import Stage, forget, run_stage
from atp.runs import SOURCE

logger = logging.getLogger(__name__)


def label_target(stage: Stage, model: Path, folder: Path) -> Table | None:
    """Call ``dump`` for the model in a folder, optionally averaged with the source model."""
    section = stage.params.dump
    network, checkpoint = stage.load(model)
    networks = [(network, 1 - section.source_weight)]
    if section.source_weight > 0:
        networks.append((stage.load(SOURCE)[0], section.source_weight))
    return dump(
        networks,
        stage.target(),
        section,
        checkpoint.label_space,
        stage.runtime,
        pending=stage.state,
        folder=folder,
        name=stage.label,
        extra={"made_by": {"stage": stage.label, "fingerprint": stage.fingerprint}},
    )


def labelling_inputs(params: Params, model: Path) -> list[Path]:
    averaged = [SOURCE] if params.dump.source_weight > 0 else []
    return [params.data.target.images, model, *averaged]


def log_labels(stage: Stage, table: Table) -> None:
    """Log the coverage of the labels, overall and per class, in percent."""
    figures = {"coverage": 100 * table["coverage"]}
    figures |= {f"coverage_{row['name'].replace(' ', '_')}": 100 * row["coverage"] for row in table["classes"]}
    stage.tracker.log(0, figures)
    logger.info("%s: labels for %.1f %% of the pixels", stage.label, figures["coverage"])


def inputs(params: Params, key: str | None) -> list[Path]:
    assert key is not None, "run_stage asks for it"
    return labelling_inputs(params, params.rounds[key].model)


def body(stage: Stage) -> None:
    assert stage.key is not None, "run_stage asks for it"
    table = label_target(stage, stage.params.rounds[stage.key].model, stage.folder)
    if table is not None:
        forget(stage.label)
        log_labels(stage, table)
        stage.tracker.artifacts(stage.folder / "table.json")
    stage.runtime.barrier()


def main() -> None:
    run_stage("dump", body, inputs, rounds=True)


if __name__ == "__main__":
    main()
