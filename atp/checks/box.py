"""Checks of a black box: its predictions, or one of its answers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from atp.black_box.boxes import FolderBox, Question
from atp.black_box.cache import AnswerCache, identity
from atp.black_box.predictions import NoAnswerError
from atp.checks.finding import Finding, kind_of
from atp.data.folder import evenly_spread
from atp.data.labels import LabelSpace
from atp.errors import grouped
from atp.params import Params
from atp.stages.query import answers, check_listening, open_box, questions


def check_box(params: Params, space: LabelSpace, sample: int) -> Iterator[Finding]:
    """Check that predictions exist and can be read, or that a callable or an endpoint answers for one image."""
    section = params.query
    if section is None:
        return
    num_classes = len(params.data.mapped_ids() or space.names)
    box = open_box(section, num_classes, params)
    asked = questions(section, params)
    if isinstance(box, FolderBox):
        box.check_names(asked)
        yield from _read_predictions(box, asked, sample)
        return
    cache = AnswerCache(answers(), identity(section, num_classes))
    # A callable is free to call, and may have just been edited.
    paid = section.box == "endpoint"
    question = next((each for each in asked if not (paid and cache.has(box.key(each)))), None)
    if question is None:
        yield Finding("ok", f"query.endpoint: {section.endpoint}: has already answered for all {len(asked)} images")
        return
    image = question.image()
    what = f"{len(asked)} images of {', '.join(sorted({question.part for question in asked}))}"
    how = f"{section.protocol} protocol" if section.box == "endpoint" else "calls"
    where = f"query.{section.box}: {section.endpoint if section.box == 'endpoint' else section.callable}"
    yield Finding(
        "ok", f"{where}: the stage query would send {what}, by {how}, the first at {image.width}x{image.height}"
    )
    try:
        if section.box == "endpoint":
            check_listening(section)
        answer = box.ask(question)
        if paid:
            cache.put(box.key(question), answer)
    except NoAnswerError as error:
        yield Finding("error", f"{where}: query of {question.sample.image}: {error}")
        return
    kind = "probabilities" if bool((answer.probabilities[0] < 1).any()) else "ids only"
    yield Finding(
        "ok", f"{where}: answered for {question.sample.image}: {kind}, {len(answer.classes)} classes per pixel"
    )


def _read_predictions(box: FolderBox, asked: Sequence[Question], sample: int) -> Iterator[Finding]:
    errors: list[tuple[str, str, str]] = []
    chosen = evenly_spread(asked, sample)
    for question in tqdm(chosen, desc="predictions", unit="image", disable=None, leave=False):
        try:
            box.ask(question)
        except NoAnswerError as error:
            kind = kind_of(str(error), question.name, Path(question.name).name)
            errors.append((kind, question.name, f"query.folder: {question.name}: {error}"))
    yield from (Finding("error", line) for line in grouped(errors))
    text = f"{box.folder}: predictions for {len(asked)} images needed, {len(chosen)} checked, {len(errors)} with errors"
    yield Finding("ok", text)
