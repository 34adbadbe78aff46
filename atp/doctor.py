"""``atp doctor``: what is wrong with parameters, data and checkpoint, before hours are spent on them.

Every check is a function that returns findings; one that cannot go on says why and stops nothing else.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from atp.black_box.boxes import FolderBox, Question
from atp.black_box.cache import AnswerCache, identity
from atp.black_box.predictions import NoAnswerError
from atp.data.folder import Sample, check_sizes, evenly_spread, image_size, list_samples
from atp.data.labels import LabelSpace
from atp.data.tensors import read_image, read_label
from atp.datasets.urban import list_pairs, missing, named
from atp.errors import InputError
from atp.evaluation.metrics import ConfusionMatrix
from atp.files import digest
from atp.models.checkpoint import load_into, load_user_state
from atp.models.inspection import live_aspp_branches
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.models.own import COARSEST, as_scores, call_factory, check_classifier, check_code, first_line
from atp.models.trial import Part, classifiers, part, scores_size
from atp.params import Params, load_params, read_params, setting
from atp.stages.query import answers, check_listening, open_box, questions
from atp.training.prediction import Predictor
from atp.training.runtime import Runtime, computes_bf16, find_device

BYTES_PER_PIXEL_AND_CLASS = 0.08
"""Of a half-done dump on disk: 755 kB for 1024x512 pixels and 19 classes, docs/pseudo_labels.md."""

MOST_TOLD = 5
"""Errors of one kind that are told one by one."""

CHECKPOINTS = (".pth", ".pt", ".safetensors", ".ckpt", ".bin")
"""Endings of files that may be a given model."""

TRIAL = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
"""Images to try a network on."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: how bad, and what is wrong where and what to do."""

    level: Literal["ok", "warning", "error"]
    text: str


def examine(path: Path, sample: int = 0) -> list[Finding]:
    """All findings about a project.

    Args:
        path: the parameter file.
        sample: images of each folder to read, evenly spread; 0 reads all.
    """
    try:
        params = load_params(path)
        space = params.data.label_space()
        params.data.protocol_ids()
    except InputError as error:
        return [Finding("error", str(error))]
    findings = [Finding("ok", f"{path}: valid; {space.num_classes} classes")]
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: check_pipeline(params, path),
        lambda: check_import(params),
        lambda: check_images(params, space, sample),
        lambda: check_domains(params),
        lambda: check_colours(params),
        lambda: check_own_network(params, space),
        lambda: check_checkpoint(params, space),
        lambda: check_box(params, space, sample),
        lambda: check_machine(params, space),
    ]
    for check in checks:
        try:
            findings += check()
        except InputError as error:
            findings.append(Finding("error", str(error)))
    # Two checks may stumble over the same file.
    return list(dict.fromkeys(findings))


def check_pipeline(params: Params, path: Path) -> Iterator[Finding]:
    """What dvc.yaml takes from params.yaml stands there: DVC knows none of the defaults, and ends at the first gap."""
    pipeline = path.with_name("dvc.yaml")
    if not pipeline.is_file():
        return
    given, defaults = read_params(path), params.model_dump(mode="json", by_alias=True)
    for name in dict.fromkeys(re.findall(r"\$\{(\w+(?:\.\w+)*)\}", pipeline.read_text())):
        # Those of a foreach.
        if name.partition(".")[0] not in ("key", "item") and setting(given, name) is None:
            default = setting(defaults, name)
            yield Finding(
                "error",
                f"{path}: {name}: missing, and {pipeline} needs it; add it"
                + (f", {name.rpartition('.')[2]}: {default}" if default is not None else ""),
            )


def check_import(params: Params) -> Iterator[Finding]:
    """``data/`` is what ``data.dvc`` would bring in now; what changed at its origin is not there before it is."""
    root = params.data.root
    described = root.with_name(f"{root.name}.dvc")
    if not described.is_file():
        return
    # Takes a second.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo(str(described.parent)) as repo:
            (stage,) = repo.stage.load_file(str(described))
            if not stage.deps:
                # Of dvc add: nothing is imported.
                return
            local = [dep for dep in stage.deps if dep.protocol == "local"]
            changes = {str(one): state for dep in local for one, state in dep.workspace_status().items()}
            touched = stage.outs[0].workspace_status().values()
    except (DvcException, SCMError, ValueError) as error:
        yield Finding("warning", f"{described}: DVC cannot read it ({first_line(error)})")
        return
    origin = next(iter(changes), "")
    if changes.get(origin) == "deleted" and not stage.frozen:
        yield Finding(
            "error",
            f"{described}: {origin}, which it imports, is not there, and dvc repro would end; put it back, or dvc "
            f"freeze {described}",
        )
    elif changes.get(origin) == "modified":
        how = f"dvc update {described}" if stage.frozen else f"dvc repro {described}"
        yield Finding("warning", f"{root}: older than {origin}, which {described} imports; {how} brings it in anew")
    if "modified" in touched:
        yield Finding(
            "warning",
            f"{root}: changed since {described} brought it in, which the next import undoes; change what it imports",
        )


def examine_data_set(name: str, root: Path) -> list[Finding]:
    """Whether one of the papers' data sets is complete and where it is published to be; reads no image.

    Raises:
        InputError: no data set of that name.
    """
    data_set = named(name)
    lines = missing(data_set, root, data_set.parts)
    if lines:
        return [Finding("error", line) for line in lines]
    findings = []
    # Cityscapes' training images are those of a source and of a target.
    for folder, split in {published.images: split for split, published in data_set.parts.items()}.items():
        published = data_set.parts[split]
        try:
            count = len(list_pairs(data_set, root, split))
        except InputError as error:
            findings.append(Finding("error", str(error)))
            continue
        text = f"{root / folder}: {count} of the {published.count} images published, " + (
            "each with its label" if published.labels else "without labels"
        )
        findings.append(Finding("ok" if count == published.count else "warning", text))
    return findings


def _folders(params: Params) -> dict[str, tuple[Path, Path | None]]:
    data = params.data
    folders: dict[str, tuple[Path, Path | None]] = {}
    if params.source and (params.source.checkpoint is None or data.source.images.is_dir()):
        folders["source"] = (data.source.images, data.source.labels)
    folders["target"] = (data.target.images, data.target.labels)
    folders["test"] = (data.test.images, data.test.labels)
    return folders


def check_images(params: Params, space: LabelSpace, sample: int) -> Iterator[Finding]:
    """Missing, unreadable and mismatched files; label values; classes that never occur; sizes; odd image modes."""
    for split, (images, labels) in _folders(params).items():
        try:
            samples = list_samples(images, labels, optional=split != "source")
        except InputError as error:
            yield Finding("error", f"{error}{_given_model(params) if split == 'source' else ''}")
            continue
        chosen = evenly_spread(samples, sample)
        pixels = torch.zeros(256, dtype=torch.int64)
        sizes: set[tuple[int, int]] = set()
        modes: dict[str, Path] = {}
        errors = 0
        for one in tqdm(chosen, desc=split, unit="image", disable=None, leave=False):
            try:
                check_sizes([one])
                sizes.add(image_size(one.image))
                read_image(one.image)
                with Image.open(one.image) as file:
                    modes.setdefault(file.mode, one.image)
                if one.label:
                    pixels += torch.bincount(read_label(one.label, space.num_classes).flatten(), minlength=256)
            except InputError as error:
                errors += 1
                yield Finding("error", str(error))
        yield Finding("ok", f"{images}: {len(samples)} images, {len(chosen)} read, {errors} with errors")
        for mode in sorted(modes.keys() - {"RGB", "P", "L"}):
            yield Finding(
                "warning", f"{modes[mode]}: mode {mode} is converted to 8-bit RGB; convert it yourself to be sure"
            )
        if len(sizes) > 1 and params.data.size is None and params.data.crop is None:
            yield Finding("error", f"{images}: {len(sizes)} sizes of images; set data.size or data.crop in params.yaml")
        absent = [name for name, count in zip(space.names, pixels.tolist(), strict=False) if not count]
        if labels is not None and absent:
            yield Finding("warning", f"{labels}: classes that never occur: {', '.join(absent)}; is their order right?")


def _given_model(params: Params) -> str:
    """What to write where a checkpoint lies in the place of source images."""
    root = params.data.source.root
    found = sorted(path for path in root.rglob("*") if path.suffix in CHECKPOINTS) if root.is_dir() else []
    if params.source is None or params.source.checkpoint is not None or not found:
        return ""
    others = f" (or another of {len(found)})" if len(found) > 1 else ""
    return f"; to start from the model that lies there, set source.checkpoint: {found[0]}{others}"


def check_domains(params: Params) -> Iterator[Finding]:
    """The same files in two places: then a figure does not mean what it seems to."""
    held: dict[str, dict[str, Path]] = {}
    for split, (images, _) in _folders(params).items():
        if images.is_dir():
            held[split] = {digest(sample.image): sample.image for sample in list_samples(images)}
    for one, other in (("source", "target"), ("source", "test"), ("target", "test")):
        both = held.get(one, {}).keys() & held.get(other, {}).keys()
        if both:
            example = held[one][min(both)]
            yield Finding("warning", f"{example}: one of {len(both)} images in both {one} and {other}; remove them")


def check_colours(params: Params) -> Iterator[Finding]:
    """Red and blue swapped in one of the domains: the source's sky is blue over its ground, the target's is red."""
    blueness: dict[str, float] = {}
    for split, (images, _) in _folders(params).items():
        if images.is_dir():
            tilts = []
            for sample in evenly_spread(list_samples(images), 50):
                image = read_image(sample.image).float()
                blue = (image[2] - image[0]).mean(1)  # of each line
                third = max(1, len(blue) // 3)
                tilts.append(float(blue[:third].mean() - blue[-third:].mean()))
            blueness[split] = sum(tilts) / len(tilts)
    # Grey levels; a grey sky or a colour cast over the whole image stays below.
    if blueness.get("source", 0) * blueness.get("target", 0) < 0 and min(map(abs, blueness.values())) > 8:
        swapped = min(blueness, key=lambda split: blueness[split])
        yield Finding(
            "warning",
            f"{_folders(params)[swapped][0]}: the upper thirds are redder than the lower ones, elsewhere bluer; were "
            "these written as BGR (OpenCV) or the others?",
        )


def check_own_network(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """A network of the user's own: can be made, takes the images' size, gives scores, and has that classifier."""
    config = params.network(space)
    if config.factory is None:
        return
    with noticed_loading() as loaded:
        model = call_factory(config)
    check_code(config)
    name = config.factory
    if loaded:
        yield Finding(
            "warning",
            f"model.factory: {name} loads {loaded[0]} whenever it is called, in every stage and by whoever uses the "
            "registered model; give it an argument that loads nothing (weights_backbone: null, encoder_weights: null) "
            "and the weights as source.checkpoint",
        )
    try:
        stride = 64 / scores_size(model, (64, 64), config.num_scores, name)[0]
        # Some networks return something else in training mode.
        as_scores(model.train()(TRIAL), name, config.num_scores)
    except InputError:
        raise
    except Exception as error:  # A user's code may raise anything.
        raise InputError(f"model.factory: {name} fails on images of 64x64 ({first_line(error)})") from error
    whole = part(model)
    yield Finding("ok", f"model.factory: {name}: {_millions(whole.parameters)} parameters, output stride {stride:g}")
    yield from _check_divisor(params, model, stride, config.num_scores)
    yield from _check_classifier(config, model, whole)


def _check_divisor(params: Params, model: nn.Module, stride: float, num_scores: int) -> Iterator[Finding]:
    """The size of the images, padded as the setting ``divisor`` says, is one that the network takes whole."""
    config, size = params.model, params.data.size
    if size is None and params.data.target.images.is_dir():
        size = image_size(list_samples(params.data.target.images)[0].image)
    if size is None:
        return
    # Only the remainder matters, and small images are quick.
    height, width = (side if side <= 128 else 128 + side % 64 for side in (size[1], size[0]))
    height, width = (side + -side % config.divisor for side in (height, width))
    if height % COARSEST == width % COARSEST == 0:
        return
    try:
        found = scores_size(model, (height, width), num_scores, str(config.factory))
        problem = ""
    except Exception as error:  # A user's code may raise anything.
        problem = f"fails at {size[0]}x{size[1]} ({first_line(error)})"
    else:
        if any(abs(own - side / stride) >= 1 for own, side in zip(found, (height, width), strict=True)):
            problem = f"gives {found[1]}x{found[0]} scores for {width}x{height} pixels, so it crops or stretches"
    if problem:
        yield Finding(
            "error",
            f"model.factory: {config.factory} {problem}, and works at multiples of {COARSEST}; set model.divisor: "
            f"{COARSEST}",
        )


def _check_classifier(config: NetworkConfig, model: nn.Module, whole: Part) -> Iterator[Finding]:
    """What the setting ``classifier`` would freeze, or what it should be."""
    held = classifiers(model, TRIAL[:1], config.num_scores, str(config.factory))

    def told(one: Part) -> str:
        numbers = f"{_millions(one.parameters)} of {_millions(whole.parameters)} parameters"
        return f"{one.name} ({one.tensors} of {whole.tensors} tensors, {numbers})"

    around = "".join(f", or around it {told(one)}" for one in held[1:])
    proposal = f"{told(held[0])} makes the scores{around}" if held else "no one submodule makes all of the scores"
    if config.classifier is None:
        advice = "; set one" if held else "; give the one that is to be frozen, or wrap them in one"
        yield Finding("error", f"model.classifier: missing; {proposal}{advice}")
        return
    check_classifier(model, config)
    names = [one.name for one in held]
    if held and config.classifier not in names:
        yield Finding(
            "warning",
            f"model.classifier: {config.classifier} is not what makes the scores, which then learn; {proposal}",
        )
        return
    yield Finding("ok", f"model.classifier: frozen in align: {told(part(model, config.classifier))}; {proposal}")


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count}"


@contextmanager
def noticed_loading() -> Iterator[list[str]]:
    """Yield a list that fills with the hosts asked for and the files of weights opened meanwhile."""
    seen: list[str] = []
    watching = True

    def notice(event: str, arguments: tuple[Any, ...]) -> None:
        asked = event == "socket.getaddrinfo"
        read = event == "open" and str(arguments[0]).endswith((".pth", ".pt", ".bin", ".safetensors", ".ckpt"))
        if watching and (asked or read):
            seen.append(str(arguments[0]))

    # Python has no way to take one off again.
    sys.addaudithook(notice)
    try:
        yield seen
    finally:
        watching = False


def check_checkpoint(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """A given source model: loads, fits, uses all its branches, and knows its own domain where that is there."""
    path = params.source.checkpoint if params.source else None
    if path is None:
        return
    config = params.network(space).model_copy(update={"weights": "none"})
    if config.factory and config.classifier is None:
        # Any will do to read a checkpoint.
        proposed = classifiers(call_factory(config), TRIAL[:1], config.num_scores, config.factory)
        if not proposed:
            return
        config = config.model_copy(update={"classifier": proposed[0].name})
    network = build_network(config)
    state = load_user_state(path)
    load_into(network, state, path)
    yield Finding("ok", f"{path}: fits the network in params.yaml")
    yield from branches(path, state, config)
    data = params.data
    if data.source.images.is_dir() and data.source.labels.is_dir():
        samples = evenly_spread(list_samples(data.source.images, data.source.labels), 20)
        yield from check_source_model(path, network, samples, params)
    else:
        yield Finding("ok", f"{path}: no labelled source images here, so its own mIoU is not known")


def check_box(params: Params, space: LabelSpace, sample: int) -> Iterator[Finding]:
    """A black box: predictions lie there and can be read; a callable or an endpoint answers about one image."""
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
    # A callable costs nothing, and may be the work of this hour.
    paid = section.box == "endpoint"
    question = next((each for each in asked if not (paid and cache.has(box.key(each)))), None)
    if question is None:
        yield Finding("ok", f"query.endpoint: {section.endpoint}: has answered about all {len(asked)} images before")
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
        yield Finding("error", f"{where}: asked about {question.sample.image}: {error}")
        return
    kind = "probabilities" if bool((answer.probabilities[0] < 1).any()) else "ids alone"
    yield Finding(
        "ok", f"{where}: answered about {question.sample.image}: {kind}, {len(answer.classes)} classes a pixel"
    )


def _read_predictions(box: FolderBox, asked: Sequence[Question], sample: int) -> Iterator[Finding]:
    errors, chosen = 0, evenly_spread(asked, sample)
    for question in tqdm(chosen, desc="predictions", unit="image", disable=None, leave=False):
        try:
            box.ask(question)
        except NoAnswerError as error:
            errors += 1
            if errors <= MOST_TOLD:
                yield Finding("error", f"query.folder: {question.name}: {error}")
    text = f"{box.folder}: predictions for {len(asked)} images wanted, {len(chosen)} looked at, {errors} with errors"
    yield Finding("ok", text)


def branches(path: Path, state: Mapping[str, Tensor], config: NetworkConfig) -> Iterator[Finding]:
    """Public code that returns inside its loop trains two of four ASPP branches."""
    live = live_aspp_branches(state, config)
    if live and len(live) < len(config.aspp_dilations):
        dilations = [config.aspp_dilations[index] for index in live]
        yield Finding(
            "warning",
            f"{path}: only {len(live)} of {len(config.aspp_dilations)} ASPP branches are trained, the others add "
            f"noise; if code with two branches made it, set model.aspp_dilations: {dilations}",
        )


def check_source_model(
    path: Path, network: SegmentationNetwork, samples: Sequence[Sample], params: Params
) -> Iterator[Finding]:
    """mIoU on its own domain: near chance speaks of normalisation, channel order or class order."""
    scores = {"straight": ConfusionMatrix(network.num_classes), "swapped": ConfusionMatrix(network.num_classes)}
    predictor = Predictor([(network, 1.0)], Runtime(torch.device("cpu")))
    for sample in tqdm(samples, desc="source model", unit="image", disable=None, leave=False):
        assert sample.label is not None
        image = read_image(sample.image, params.data.source_size)
        labels = read_label(sample.label, network.num_classes, params.data.source_size)
        for name, view in (("straight", image), ("swapped", image.flip(0))):
            scores[name].update(predictor.probabilities(view[None])[0].argmax(0), labels)
    miou, swapped = (100 * scores[name].mean_iou() for name in ("straight", "swapped"))
    text = f"{path}: mIoU {miou:.1f} on {len(samples)} of its own source images"
    if swapped > miou + 5:
        other = "rgb" if params.model.channels == "bgr" else "bgr"
        text += f", but {swapped:.1f} with red and blue swapped; set model.channels: {other}"
        yield Finding("warning", text)
    elif miou < max(15.0, 200 / network.num_classes):
        counts = scores["straight"].counts.double()
        best = float(counts.max(0).values.sum() / counts.sum().clamp_min(1))
        straight = float(counts.diagonal().sum() / counts.sum().clamp_min(1))
        order = "; its classes look permuted" if best > straight + 0.3 else ""
        yield Finding("warning", f"{text}: implausible{order}; check mean, std, channels and the order of the classes")
    else:
        yield Finding("ok", text)


def check_machine(params: Params, space: LabelSpace) -> Iterator[Finding]:
    """Device, precision and disk."""
    try:
        device = find_device(params.runtime.device)
    except InputError as error:
        yield Finding("error", str(error))
    else:
        if params.training.precision == "bf16" and not computes_bf16(device):
            yield Finding(
                "warning", "params.yaml: training.precision is bf16, which is only imitated here; take auto or fp32"
            )
    if params.data.target.images.is_dir():
        samples = list_samples(params.data.target.images)
        width, height = params.data.size or image_size(samples[0].image)
        need = len(samples) * width * height * space.num_classes * BYTES_PER_PIXEL_AND_CLASS
        free = shutil.disk_usage(Path.cwd()).free
        level: Literal["ok", "warning"] = "warning" if free < 2 * need else "ok"
        yield Finding(
            level, f"{Path.cwd()}: {free / 1e9:.1f} GB free; a round of pseudo labels takes about {need / 1e6:.0f} MB"
        )
