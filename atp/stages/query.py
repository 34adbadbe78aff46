"""Stage ``query``: a black box's answers to all target images (Sec. 3.4) and test images, each queried only once."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from atp.black_box.answers import Answer, AnswerWriter
from atp.black_box.asking import ask_all
from atp.black_box.boxes import Box, FolderBox, Question, open_callable, open_folder
from atp.black_box.cache import AnswerCache, identity
from atp.black_box.endpoint import open_endpoint, unencrypted
from atp.black_box.predictions import mapped
from atp.black_box.settings import QuerySettings
from atp.data.folder import list_samples
from atp.errors import InputError
from atp.params import Params, needed
from atp.runner.project import shared
from atp.runner.stage import Stage, run_stage
from atp.runner.tracking import check_address
from atp.training.progress import Progress

ALONE = True

logger = logging.getLogger(__name__)


def answers() -> Path:
    """Folder of the permanent cache of valid answers, shared by all pipelines and experiments."""
    return shared() / "answers"


def open_box(section: QuerySettings, num_classes: int, params: Params) -> Box:
    """Open the box that params.yaml describes.

    Args:
        num_classes: number of classes of the box.
    """
    if section.box == "folder":
        return open_folder(section, num_classes)
    if section.box == "callable":
        return open_callable(section, num_classes, params.data.source.root)
    box = open_endpoint(section, num_classes)
    if unencrypted(str(section.endpoint)) and box.credentials.any:
        logger.warning("query: %s is not encrypted: the token can be read in transit", section.endpoint)
    return box


def check_listening(section: QuerySettings) -> None:
    """Fail at once if no server listens at the endpoint; an endpoint that fails occasionally is retried.

    Raises:
        InputError: no server listens.
    """
    try:
        check_address(str(section.endpoint))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"params.yaml: query.endpoint: {section.endpoint}: no server answers there ({reason}); start it, or "
            "correct the address"
        ) from error


def questions(section: QuerySettings, params: Params) -> list[Question]:
    """One question per target image and, with ``query.test``, per test image."""
    data = params.data
    folders = {"target": data.target.images} | ({"test": data.test.images} if section.test else {})
    return [Question(part, sample, data.size) for part, images in folders.items() for sample in list_samples(images)]


def assemble(keys: Mapping[str, list[tuple[Question, str]]], cache: AnswerCache, stage: Stage) -> None:
    """Write the answers, in the target's classes, as the stage's result.

    Args:
        keys: by part, each image with its key in the cache.
    """
    section, data = needed(stage.params.query, "query"), stage.params.data
    space, ids = data.label_space(), data.mapped_ids()
    box = identity(section, len(ids or space.names))
    with stage.output() as folder:
        for part, questions in keys.items():
            writer = AnswerWriter(folder / part, space, box)
            for question, key in questions:
                path = cache.path(key)
                answer = Answer.read(path)
                if ids is None:
                    writer.add(question.sample.name, answer, path.read_bytes())
                else:
                    writer.add(question.sample.name, mapped(answer, ids, space.num_classes, section.keep))
            writer.finish()


def inputs(params: Params, key: str | None) -> list[Path]:
    section, data = needed(params.query, "query"), params.data
    return [data.target.images, data.source.root, *([data.test.images] if section.test else [])]


def opened(params: Params) -> list[Path]:
    """The box's files, and the test images; no labels."""
    return [params.data.source.root, params.data.test.images]


def body(stage: Stage) -> None:
    if not stage.runtime.is_main:
        return
    section, data = needed(stage.params.query, "query"), stage.params.data
    num_classes = len(data.mapped_ids() or data.label_space().names)
    box = open_box(section, num_classes, stage.params)
    asked = questions(section, stage.params)
    if isinstance(box, FolderBox):
        box.check_names(asked)
    cache = AnswerCache(answers(), identity(section, num_classes))
    begin = time.monotonic()
    keys: dict[str, list[tuple[Question, str]]] = {}
    for question in asked:
        keys.setdefault(question.part, []).append((question, box.key(question)))
    # The same image under two names is one question.
    named = {key: question for pairs in keys.values() for question, key in reversed(pairs)}
    missing = {key: question for key, question in named.items() if not cache.has(key)}
    if section.box == "endpoint" and missing:
        check_listening(section)
    with Progress(stage.label, len(named), len(named) - len(missing)) as progress:
        result = ask_all(box, missing, cache, section, progress)
    failed = [question.name for pairs in keys.values() for question, key in pairs if key in result.failures]
    figures = {
        "images": len(asked),
        "answered_before": len(named) - len(missing),
        "requests": result.requests,
        "without_answer": len(failed),
        "seconds": time.monotonic() - begin,
    }
    stage.tracker.log(0, figures)
    logger.info(
        "query: %d images; %d answered before, %d now, in %d requests",
        len(asked),
        len(named) - len(missing),
        len(missing) - len(result.failures),
        result.requests,
    )
    if failed:
        reasons = {named[key].name: reason for key, reason in result.failures.items()}
        first = "; ".join(f"{name} ({reason})" for name, reason in list(reasons.items())[:3])
        raise InputError(
            f"query: no valid answer for {len(failed)} of {len(asked)} images: {first}"
            f"{'; ...' if len(reasons) > 3 else ''}; valid answers are kept: run again to query only the others"
        )
    assemble(keys, cache, stage)


def main() -> None:
    run_stage("query", body, inputs, opened=opened)


if __name__ == "__main__":
    main()
