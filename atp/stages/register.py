"""Stage ``register``: register the recommended model in MLflow once and pass it through the gate; writes
``runs/register/version.json``.

DVC always runs it, because the registry may differ from last time. An existing version is found by its tags, without
importing PyTorch.
"""

import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atp.evaluation.evidence.record import FILE as EVIDENCE
from atp.evaluation.evidence.record import SHARES, read_evidence, read_shares
from atp.evaluation.evidence.vanished import warning
from atp.params import Params
from atp.registry.card import artifact_address, model_card
from atp.registry.comparison import evaluation_digest
from atp.registry.gate import JUDGEMENT, Version, pass_gate
from atp.registry.origin import (
    EVALUATION_TAG,
    FINGERPRINT_TAG,
    Identity,
    identify,
    origin_tags,
    read_image_count,
    read_metrics,
)
from atp.runner.process import light_stage, output, seal, write_json
from atp.runs import METRICS, REGISTER, REPORT
from atp.stages.champion import evaluate_again

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from atp.runner.tracking import Tracker

ALONE = True

logger = logging.getLogger(__name__)

PICTURE = REPORT / "predictions.png"


def register(params: Params, identity: Identity, evaluation: str | None) -> Version:
    """Give the alias to the version with the recommended model, which is created if missing, and return it.

    Args:
        evaluation: digest of the evaluation behind this run's metrics; None without labels.
    """
    from atp.runner.tracking import open_client, patience, store_lock, told

    section = params.register_
    client = open_client()
    # MLflow numbers concurrent versions correctly; the lock keeps two processes from adding the same model or judging
    # two against the same champion.
    with store_lock("register"), patience(120, 2):
        with told():
            found = find_version(client, section.name, identity.fingerprint)
        said = "already holds this model" if found else "is new"
        tags = origin_tags(identity) | ({EVALUATION_TAG: evaluation} if evaluation else {})
        version = found or add_version(client, params, identity, tags)
        with told():
            client.set_registered_model_alias(section.name, section.alias, version.number)
            verdict = pass_gate(client, version, section, evaluate_again)
    logger.info("register: %s version %s (%s) %s", section.name, version.number, section.alias, said)
    logger.info("register: %s", identity.recommended)
    if verdict:
        logger.info("register: %s version %s %s", section.name, version.number, verdict)
    return version


def find_version(client: "MlflowClient", name: str, fingerprint: str) -> Version | None:
    """The newest version with this fingerprint."""
    query = f"name = '{name}' and tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
    found = client.search_model_versions(query, max_results=1)
    return _version(found[0]) if found else None


def add_version(client: "MlflowClient", params: Params, identity: Identity, tags: dict[str, str]) -> Version:
    """Log the model and its summary metrics in the pipeline's run, and create a version of it."""
    from mlflow.entities import Metric

    from atp.models.checkpoint import load_checkpoint
    from atp.registry.package import log_registered_model
    from atp.runner.tracking import open_tracker

    name, adapted, folder = params.register_.name, load_checkpoint(identity.file), identity.recommended.folder
    with open_tracker("register", params, enabled=True) as tracker:
        now, miou = int(time.time() * 1000), read_metrics().get("miou", {})
        metrics = [Metric(f"miou_{stage}", value, now, 0) for stage, value in miou.items() if value is not None]
        # Logged before the model, which inherits the metrics of its run.
        client.log_batch(tracker.parent_id, metrics=metrics)
        reading = adapted.reading
        metadata = {
            "classes": list(adapted.label_space.names),
            "size": list(reading.size or ()),
            "window": list(reading.window or ()),
        }
        run = client.get_run(tracker.parent_id)
        number = log_registered_model(client, run, identity.file, name, tags, metadata)
        for path in filter(Path.is_file, (Path("dvc.lock"), METRICS)):
            tracker.artifacts(path)
        # The precision that auto resolved to.
        training = params.training.model_copy(
            update={"precision": adapted.made_by.get("precision", params.training.precision)}
        )
        card = model_card(
            params.model_copy(update={"training": training}),
            tags,
            read_metrics(),
            images=read_image_count(),
            picture=upload_picture(tracker),
            class_map=adapted.config.class_map,
            recommended=str(identity.recommended),
            evidence=read_evidence(folder) if (folder / EVIDENCE).is_file() else None,
            vanished=warning(read_shares(folder)) if (folder / SHARES).is_file() else "",
        )
        client.update_model_version(name, number, card)
        tracker.finish(REGISTER, tags[FINGERPRINT_TAG])
    return _version(client.get_model_version(name, number))


def upload_picture(tracker: "Tracker") -> str:
    """Upload the report's picture, reduced for the model card; returns its address, empty without a report."""
    if not PICTURE.is_file():
        return ""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder, Image.open(PICTURE) as file:
        small = Path(folder) / "predictions.jpg"
        picture = file.convert("RGB")
        picture.thumbnail((720, 1200))
        picture.save(small, quality=80)
        tracker.artifacts(small, "card")
    return artifact_address(tracker.run_id, "card/predictions.jpg")


def _version(found: "ModelVersion") -> Version:
    return Version(found.name, str(found.version), found.run_id or "", dict(found.tags))


def main() -> None:
    with light_stage("register") as params:
        identity, evaluation = identify(params), evaluation_digest(params)
        # Everything that needs the data has been read; from here on no source data or labels can reach the registry.
        seal(params)
        version = register(params, identity, evaluation)
        with output(REGISTER) as folder:
            write_json(folder / "version.json", described(version, params.register_.alias))


def described(version: Version, alias: str) -> dict[str, Any]:
    """A version as JSON, without the later tags of the gate and of users, so that it is always the same."""
    return {
        "name": version.name,
        "version": version.number,
        "alias": alias,
        "uri": f"models:/{version.name}/{version.number}",
        "run_id": version.run_id,
        "tags": {key: value for key, value in sorted(version.tags.items()) if not key.startswith(JUDGEMENT)},
    }


if __name__ == "__main__":
    main()
