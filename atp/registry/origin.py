"""The data, parameters, code and source model of an adapted model, as tags of its registered version."""

import json
import os
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import atp
from atp.data.settings import DataSettings
from atp.errors import InputError
from atp.evaluation.recommendation import Recommendation, read_recommendation
from atp.files import digest
from atp.params import Params
from atp.runner.project import dvc_digest
from atp.runs import ANSWERS, METRICS, MODEL, PROPAGATE, RUNS, SOURCE

MODEL_CODE = Path(__file__).with_name("model.py")
"""The code that MLflow runs to load a registered model."""

SERVED_CODE = (
    MODEL_CODE,
    MODEL_CODE.with_name("images.py"),
    MODEL_CODE.with_name("guard.py"),
    MODEL_CODE.parents[1] / "training/prediction.py",
)
"""The code that decides a registered model's input and output."""

FINGERPRINT_TAG = "atp.fingerprint"
EVALUATION_TAG = "atp.evaluation"

STAGE_TAG = "atp.stage"
"""The stage that made the registered model: the recommended one. Older versions lack it: they are propagate's."""

ADAPTED = PROPAGATE / MODEL
"""The model of the last stage."""


@dataclass(frozen=True)
class Identity:
    """What a version is made of; a model with an equal identity is not registered again.

    The git commit is not part of it, since a commit may not affect the model.

    Attributes:
        model: digest of the weights' file, which also names the code that trained them.
        data, params: digests, as the functions below make them.
        recommended: the stage that made it, and why it is that one; not part of the fingerprint.
    """

    model: str
    data: str
    params: str
    recommended: Recommendation

    @property
    def file(self) -> Path:
        return self.recommended.folder / MODEL

    @property
    def fingerprint(self) -> str:
        """Digest that includes the code that loads the model, so that changing it creates a new version."""
        code = [digest(path) for path in SERVED_CODE]
        return sha256("\n".join([self.model, self.data, self.params, *code]).encode()).hexdigest()


def identify(params: Params) -> Identity:
    """The identity of the recommended model on disk.

    Raises:
        InputError: the last stage has made no model.
    """
    if not ADAPTED.is_file():
        raise InputError(f"{ADAPTED}: no such file; run the stage that makes it: dvc repro propagate")
    recommended = read_recommendation(RUNS, list(params.rounds), black_box=params.black_box)
    model = digest(recommended.folder / MODEL)
    return Identity(f"sha256:{model}", data_digest(params.data), params_digest(params), recommended)


def origin_tags(identity: Identity) -> dict[str, str]:
    """Tags for the model's origin, and mIoU in percent if the target has labels."""
    miou = read_metrics().get("miou", {})
    measured = [name for name in ("source", identity.recommended.model) if miou.get(name) is not None]
    return {
        FINGERPRINT_TAG: identity.fingerprint,
        "atp.version": atp.__version__,
        "atp.git_commit": git("rev-parse", "HEAD") or os.environ.get("ATP_GIT_COMMIT") or "unknown",
        "atp.git_dirty": git_dirty(),
        "atp.data": identity.data,
        "atp.params": identity.params,
        "atp.dvc_lock": lock_digest(),
        **_source_tag(),
        "atp.adapted_model": identity.model,
        STAGE_TAG: identity.recommended.model,
        **{miou_tag(name): str(miou[name]) for name in measured},
    }


def miou_tag(model: str) -> str:
    """The tag with a model's mIoU in percent."""
    return f"atp.miou_{model}"


def _source_tag() -> dict[str, str]:
    if ANSWERS.is_dir():
        return {"atp.source_answers": f"sha256:{digest(ANSWERS)}"}
    model = SOURCE / MODEL
    return {"atp.source_model": f"sha256:{digest(model)}" if model.is_file() else "unknown"}


def read_metrics() -> dict[str, Any]:
    """The metrics of ``evaluate``; empty if it did not run."""
    metrics: dict[str, Any] = json.loads(METRICS.read_text()) if METRICS.is_file() else {}
    return metrics


def read_image_count() -> int | None:
    """Number of test images in ``evaluate``; None if it did not run."""
    path = METRICS.with_name("images.json")
    return len(next(iter(json.loads(path.read_text()).values()))["entropy"]) if path.is_file() else None


def data_digest(data: DataSettings) -> str:
    """DVC's ``md5:`` of the data, or ``sha256:`` of all files if they are not in DVC, or not all below one folder."""
    known = dvc_digest(data.root)
    parts = [part for each in (data.target, *data.held_out) for part in (each.images, each.labels) if part]
    outside = [part for part in parts if not part.resolve().is_relative_to(data.root.resolve())]
    if not outside:
        return f"md5:{known}" if known else f"sha256:{digest(data.root)}"
    texts = [known or digest(data.root), *map(digest, outside)]
    return f"sha256:{sha256(' '.join(texts).encode()).hexdigest()}"


def params_digest(params: Params) -> str:
    """Digest of all parameters that change the model, regardless of comments and order; a black box is identified by
    its answers instead of the query."""
    tree = params.model_dump(mode="json", by_alias=True, exclude={"runtime", "register_", "query"})
    return f"sha256:{sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()}"


def lock_digest() -> str:
    """Digest of dvc.lock without the stage ``register``, since DVC writes its entry only after it ends.

    It therefore matches the file committed later: ``python -m atp.registry.origin`` prints it.
    """
    path = Path("dvc.lock")
    if not path.is_file():
        return "unknown"
    stages = YAML(typ="safe", pure=True).load(path)["stages"]
    rest = {name: stage for name, stage in stages.items() if name != "register"}
    return f"sha256:{sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}"


def git(*arguments: str) -> str | None:
    """The output of a git command in the working folder; None outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def git_dirty() -> str:
    """Whether tracked files differ from the commit, except dvc.lock, which every run changes and which has its own
    tag."""
    but_locks = ":(top,exclude,glob)**/dvc.lock"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", but_locks)
    return "unknown" if changed is None else str(bool(changed)).lower()


if __name__ == "__main__":
    print(lock_digest())
