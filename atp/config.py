"""``params.yaml`` as typed, validated sections; the only place where settings are looked up by string."""

import copy
import difflib
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from atp.data.labels import IGNORE, LabelSpace
from atp.errors import InputError
from atp.models.config import NetworkConfig

# Strict: a quoted number or a yes/no in a number's place is a mistake to tell, not to convert.
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Decay = Annotated[float, Field(gt=0.0, lt=1.0, strict=True)]
Positive = Annotated[float, Field(gt=0.0, strict=True)]
NonNegative = Annotated[float, Field(ge=0.0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Channel = Annotated[int, Field(ge=0, le=255, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
ALIAS_PATTERN = r"(?!(?i:latest|v\d+)$)[\w\-]+"
"""Those two are MLflow's own."""


SECRET_PATTERN = r"(?i)key|token|secret|passw|^sig|signature|credential|auth"
"""Names in an address that mark what belongs into no file."""

IGNORED_NAME = "ignore"
"""In a class map, what a class becomes that the target does not have."""

EMPTY: Mapping[str, Any] = MappingProxyType({})


ATP = "atp"
"""The method of the paper, among its rivals."""


def rivals() -> list[str]:
    """Methods that can take the place of align: the modules of atp/rivals, whose listing is the only list of them."""
    return sorted(path.stem for path in Path(__file__).with_name("rivals").glob("[!_]*.py"))


class Section(BaseModel):
    """A section of params.yaml: no unknown keys, no silent conversions, read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceData(Section):
    """What there is of the source domain: class names, and labelled images or nothing but the given checkpoint.

    Attributes:
        root: holds either; the stage ``source`` depends on it, and every stage after it is kept out of it.
        images, labels: folders; ``images`` and ``labels`` below ``root`` if not given.
        size: (width, height) at which the source model is trained; None takes ``data.size``.
    """

    root: Path
    images: Path = Path()
    labels: Path = Path()
    size: tuple[Count, Count] | None = None

    @model_validator(mode="before")
    @classmethod
    def _below_root(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(root := values.get("root"), str):
            return {"images": f"{root}/images", "labels": f"{root}/labels", **values}
        return values

    @model_validator(mode="after")
    def _inside_root(self) -> Self:
        for path in (self.images, self.labels):
            if not path.is_relative_to(self.root):
                raise ValueError(f"{path} is not below root {self.root}; DVC would not see it change")
        return self


class MaybeLabelled(Section):
    """Folders of images and, where they exist, of their labels."""

    images: Path
    labels: Path | None = None


class ClassEntry(Section):
    """One class of the label space, in id order."""

    name: str
    color: tuple[Channel, Channel, Channel]


class DataSection(Section):
    """Where the images are and at which size they are read.

    Attributes:
        root: the folder that ``data.dvc`` brings in; everything below lies in it.
        source: labelled source images; read by the stage ``source`` alone.
        target: unlabelled target images; their labels, if any, are read by ``evaluate`` alone.
        test: held-out target images with labels; without labels only label-free figures are reported.
        classes: a YAML file below ``source.root`` with a list of ``{name, color: [r, g, b]}``, or that list itself.
        class_map: of a given model with other classes: a YAML list, or a file below ``source.root`` with that list, of
            each of ITS classes in the order of their ids, ``- its name: the target's name``, or ``ignore``. Several of
            its classes may be one of the target's. None where its classes are the target's.
        size: (width, height) to which every image is resized; None keeps each image's own.
        crop: (width, height) of random training crops; None trains on whole images, which then must be of one size.
        protocols: names of classes by a name of theirs; ``evaluate`` also gives the mean IoU of each such set, from the
            same confusion matrix.
    """

    root: Path = Path("data")
    source: SourceData
    target: MaybeLabelled
    test: MaybeLabelled
    classes: Path | tuple[ClassEntry, ...]
    class_map: Path | tuple[dict[str, str], ...] | None = None
    size: tuple[Count, Count] | None = None
    crop: tuple[Count, Count] | None = None
    protocols: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}

    @property
    def source_size(self) -> tuple[int, int] | None:
        """At which source images are read."""
        return self.source.size or self.size

    @field_validator("class_map", mode="before")
    @classmethod
    def _list_or_its_file(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | Path):
            return value
        # A list and no mapping: DVC does not see the entries of a mapping change places, and some programs sort them.
        _check_class_map(value)
        return value

    def label_space(self) -> LabelSpace:
        """The classes, from the list here or from their file.

        Raises:
            InputError: no such file, or it is not a list of at most 255 classes with unique names.
        """
        entries = self.classes if isinstance(self.classes, tuple) else _read_classes(self.classes)
        where = "params.yaml: data.classes" if isinstance(self.classes, tuple) else str(self.classes)
        names = tuple(entry.name for entry in entries)
        if not 2 <= len(names) <= 255:
            raise InputError(f"{where}: {len(names)} classes; there must be 2 to 255")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{where}: class name {twice[0]!r} stands twice; names must be unique")
        return LabelSpace(names, tuple(entry.color for entry in entries))

    def protocol_ids(self) -> dict[str, tuple[int, ...]]:
        """The class ids of every protocol.

        Raises:
            InputError: a name that is no class.
        """
        ids = {name: index for index, name in enumerate(self.label_space().names)}
        for protocol, names in self.protocols.items():
            for name in names:
                if name not in ids:
                    near = difflib.get_close_matches(name, list(ids), n=1)
                    hint = f"is it {near[0]}?" if near else f"there are {', '.join(ids)}"
                    raise InputError(f"params.yaml: data.protocols.{protocol}: {name}: no such class; {hint}")
        return {protocol: tuple(ids[name] for name in names) for protocol, names in self.protocols.items()}

    def mapped_names(self) -> list[tuple[str, str]] | None:
        """Each class of the source model and the target's that it becomes, or ``ignore``; None if these are the same.

        Raises:
            InputError: no such file, a target class that does not exist, or one that no source class becomes.
        """
        if self.class_map is None:
            return None
        where = str(self.class_map) if isinstance(self.class_map, Path) else "params.yaml: data.class_map"
        try:
            pairs = _check_class_map(_read_yaml(self.class_map) if isinstance(self.class_map, Path) else self.class_map)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        names = self.label_space().names
        if IGNORED_NAME in names:
            raise InputError(
                f"{where}: {IGNORED_NAME} is a class of data.classes, and means none here; rename the class"
            )
        for name, target in pairs:
            if target not in (*names, IGNORED_NAME):
                near = difflib.get_close_matches(target, [*names, IGNORED_NAME], n=1)
                hint = f"is it {near[0]}?" if near else f"there are {', '.join(names)}, and {IGNORED_NAME}"
                raise InputError(f"{where}: {name}: {target}: no such class in data.classes; {hint}")
        missing = set(names) - {target for _, target in pairs}
        if missing:
            first = next(name for name in names if name in missing)
            raise InputError(
                f"{where}: no class of the source model becomes {first}, which would never be predicted; "
                "map one to it, or take it out of data.classes"
            )
        if len(pairs) > 255:
            raise InputError(f"{where}: {len(pairs)} classes of the source model; there may be 255")
        return pairs

    def mapped_ids(self) -> tuple[int, ...] | None:
        """For each class of the source model the target's id, 255 = none; None if its classes are the target's.

        Raises:
            InputError: as ``mapped_names``.
        """
        pairs = self.mapped_names()
        ids = {name: index for index, name in enumerate(self.label_space().names)} | {IGNORED_NAME: IGNORE}
        return None if pairs is None else tuple(ids[target] for _, target in pairs)


def _check_class_map(tree: object) -> list[tuple[str, str]]:
    """The pairs in a class map's list.

    Raises:
        ValueError: it is none.
    """
    entries = tree if isinstance(tree, list | tuple) else [tree]
    pairs = [pair for entry in entries if isinstance(entry, dict) and len(entry) == 1 for pair in entry.items()]
    if (
        isinstance(tree, dict)
        or len(pairs) < len(entries)
        or not all(isinstance(x, str) for pair in pairs for x in pair)
    ):
        raise ValueError("must be a list with a line for each class of the source model, - its name: ours")
    return pairs


class TrainingSection(Section):
    """What all training stages share and what changes their result.

    Attributes:
        seed: of everything random; stages mix it with their own name.
        precision: arithmetic of the forward and backward pass under autocast; weights stay float32. ``auto`` is bf16
            on a device that computes in it, fp32 on one that would only imitate it, many times slower.
        channels_last: memory format of weights and activations.
    """

    seed: Whole = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    channels_last: Flag = True


class RuntimeSection(Section):
    """Where and how fast; nothing here changes a result, and DVC does not track it.

    Attributes:
        device: ``auto`` takes CUDA where it is, else the CPU.
        processes: that share the work of a stage, by PyTorch's launcher; 0 takes one for each GPU. Each computes
            BatchNorm's statistics on its part of the batch.
        workers: data loading processes; 0 loads in the training process.
        threads: CPU threads of PyTorch; 0 leaves its own choice. On the CPU another number may change the last bits.
        cache_mb: memory for decoded images, per process.
        save_every_s: seconds between two saved training states; 0 saves after every step.
    """

    device: str = "auto"
    processes: Whole = 1
    workers: Whole = 0
    threads: Whole = 0
    cache_mb: Whole = 2048
    save_every_s: NonNegative = 30.0


class Augmentation(Section):
    """Random changes to training images.

    Attributes:
        flip: mirror half of the images.
        scale: range of random zoom before the crop; (1, 1) is none.
        jitter: strength of colour jitter: brightness, contrast and saturation by up to this share, hue by a quarter.
        blur: Gaussian blur for half of the images.
    """

    flip: Flag = True
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    jitter: Share = 0.0
    blur: Flag = False


class Optimisation(Section):
    """SGD with the "poly" schedule (Sec. 4.2: lr 2.5e-4 for the backbone, 10 times that for the classifier, power 0.9).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes.
        lr: learning rate of the backbone at the start.
        classifier_lr_factor: the classifier learns this much faster.
        momentum, weight_decay: of SGD.
        power: of the poly schedule, lr * (1 - step / steps) ** power.
        warmup_steps: linear increase before it.
        batchnorm: ``train`` normalises by the batch and re-estimates the running statistics, ``eval`` holds them.
        augmentation: see there.
    """

    epochs: Count
    batch_size: Count
    lr: Positive
    classifier_lr_factor: Positive = 1.0
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4
    power: NonNegative = 0.9
    warmup_steps: Whole = 0
    batchnorm: Literal["train", "eval"] = "train"
    augmentation: Augmentation = Augmentation()


class QuerySection(Section):
    """A source model of which only the predictions are known (Sec. 3.4): where they come from, and what is kept.

    Attributes:
        box: what answers: a ``folder`` of predictions, a Python ``callable``, or an HTTP ``endpoint``.
        folder: predictions by image name, ``NAME.png`` of ids, ``NAME.npy`` or ``NAME.npz``; below data.source.root.
        callable: ``package.module:callable``, an image, uint8 (H, W, 3), to ids (H, W) or probabilities (C, H, W).
        endpoint: address, http or https, without credentials in it.
        protocol: ``mlflow``, its scoring protocol, or ``plain``: a PNG is posted, a PNG or an array comes back.
        version: of the box. Answers are kept for ever; another word asks all images anew.
        test: also ask about the test images, so that the box's own mIoU stands in the tables.
        keep: most probable classes kept of each pixel.
        concurrency: requests under way at once; if not given 4 to an endpoint, else 1. A callable must bear more.
        rate: requests a second at most; 0 is no limit.
        timeout_s: for one request.
        attempts: for one image, before the stage goes on without it and ends with its name.
        backoff_s: before the second attempt; doubled for each further one, up to a minute, and less a random part.
        token: name of the environment variable whose value is sent as ``Authorization: Bearer``.
        headers: further headers, by the name of the environment variable that holds the value.
    """

    box: Literal["folder", "callable", "endpoint"]
    folder: Path | None = None
    callable: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None
    endpoint: str | None = None
    protocol: Literal["mlflow", "plain"] = "mlflow"
    version: str = ""
    test: Flag = True
    keep: Annotated[int, Field(ge=1, le=255, strict=True)] = 4
    concurrency: Count | None = None
    rate: NonNegative = 0.0
    timeout_s: Positive = 60.0
    attempts: Count = 8
    backoff_s: Positive = 1.0
    token: str = "ATP_QUERY_TOKEN"
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9\-]+$")], str] = {}

    @model_validator(mode="after")
    def _variables_are_named(self) -> Self:
        # Not as a pattern: its complaint would quote the secret that stands here in place of a name.
        for name, variable in {"token": self.token, **self.headers}.items():
            if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
                raise ValueError(f"{name}: must name an environment variable that holds the secret: ATP_QUERY_TOKEN")
        return self

    @model_validator(mode="after")
    def _box_is_given(self) -> Self:
        if getattr(self, self.box) is None:
            raise ValueError(f"box is {self.box}, but {self.box} is not given")
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("endpoint must be an address such as http://127.0.0.1:5001/invocations")
            if parts.username or parts.password:
                raise ValueError("endpoint holds a user or a password; put the secret into the variable named by token")
            secret = next((name for name, _ in parse_qsl(parts.query) if re.search(SECRET_PATTERN, name)), None)
            if secret is not None:
                raise ValueError(f"endpoint holds {secret}, which looks like a secret; send it by token or headers")
        return self


class DistillSection(Optimisation):
    """A student that learns what the source model predicted (Eq. 11); its network is the section ``model``.

    Attributes:
        answers: ``soft`` learns all that is known of each pixel, ``hard`` the most probable class alone.
    """

    answers: Literal["soft", "hard"] = "soft"


class SourceSection(Optimisation):
    """The source model: given, or trained here with cross-entropy (Eq. 1).

    Attributes:
        checkpoint: a given model; training is skipped.
    """

    checkpoint: Path | None = None


class RivalSettings(Section):
    """What every rival of align can set; its module in atp/rivals adds its own.

    Attributes:
        epochs: passes over the target images; None takes as many as align.
        lr_factor: its learning rate in units of align's: the two published ones divided. So both are scaled alike where
            align's is not the published 2.5e-4.
    """

    epochs: Count | None = None
    lr_factor: Positive = 1.0


class AlignSection(Optimisation):
    """Implicit feature alignment (Sec. 3.1), or another method in its place.

    Attributes:
        method: ``atp``, or a rival to compare it with: the name of a module in atp/rivals.
        rival: the rival's settings, where they shall not be the published ones: see ``Settings`` in its module.
        alpha: weight of the curriculum entropy (Eq. 2).
        gamma: its exponent.
        weight_grad: whether the gradient passes through its weight (1 - h) ** gamma.
        diversity: weight of the diversity loss (Eq. 3).
        sharpness: lambda in Eq. 3's weight exp(-lambda h).
        weighted: False gives every pixel the weight 1, the paper's L*_div.
        per_image: class distribution of each image rather than of the batch.
        freeze_classifier: keep g fixed, parameters and buffers, as the paper does.
    """

    method: str = ATP
    rival: dict[str, Any] = {}
    alpha: NonNegative = 1.0
    gamma: NonNegative = 3.0
    weight_grad: Literal["detach", "full"] = "detach"
    diversity: NonNegative = 0.3
    sharpness: NonNegative = 3.0
    weighted: Flag = True
    per_image: Flag = False
    freeze_classifier: Flag = True

    @model_validator(mode="after")
    def _method_exists(self) -> Self:
        methods = [ATP, *rivals()]
        if self.method not in methods:
            near = difflib.get_close_matches(self.method, methods, n=1)
            hint = f"is it {near[0]}?" if near else f"there are {', '.join(methods)}"
            raise ValueError(f"method {self.method}: no such method; {hint}")
        if self.method == ATP and self.rival:
            raise ValueError(f"rival is for a rival's settings; method is {ATP}, whose are beside it")
        return self


class Round(Section):
    """One round of dump and teach.

    Attributes:
        model: folder of the model that labels and is then taught: ``runs/align`` (``runs/distill`` of a black box), or
            an earlier ``runs/teach/rNN``.
    """

    model: Path


class DumpSection(Section):
    """Pseudo labels on disk (Sec. 3.2), written by one pass over the target images.

    Attributes:
        keep_ratio: K of Eq. 4, the share of each class's pixels that become positive labels.
        negative_threshold: lambda_neg of Eq. 6.
        flip: average the prediction with that of the mirrored image.
        scales: average predictions over these zooms.
        source_weight: share of the source model's prediction in the average.
    """

    keep_ratio: Annotated[float, Field(gt=0.0, le=1.0, strict=True)] = 0.65
    negative_threshold: Share = 0.05
    flip: Flag = False
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    source_weight: Annotated[float, Field(ge=0.0, lt=1.0, strict=True)] = 0.0


class TeachSection(Optimisation):
    """Bidirectional self-training (Eq. 8).

    Attributes:
        positive: weight of Eq. 5.
        negative: weight of Eq. 7.
        negatives: ``dumped`` with the positives, or ``online`` from the network as it learns (Algorithm 1's letter).
        class_mix: paste half of the classes of one image, labels and all, onto the next of the batch.
        ema: decay of an average of the weights, which is then what the stage hands on; None hands on the weights.
    """

    positive: NonNegative = 1.0
    negative: NonNegative = 1.0
    negatives: Literal["dumped", "online"] = "dumped"
    class_mix: Flag = False
    ema: Decay | None = None


class SplitSection(Section):
    """Easy and hard target images by mean entropy (Eq. 9).

    Attributes:
        model: folder of the model that ranks and labels: the last round's ``runs/teach/rNN``, or that of the first
            round's beginning.
        easy_ratio: share of the images that count as easy.
    """

    model: Path
    easy_ratio: Decay = 0.5


class PropagateSection(Optimisation):
    """From easy to hard images, as semi-supervised learning does (Eq. 10).

    Attributes:
        mix: how an easy and a hard image become one training image: ``class_mix`` pastes half of the easy one's
            classes, ``cut_mix`` a box; ``reco`` is ``class_mix`` with regional contrast (Liu et al. 2022); ``none``
            asks for consistency on the hard one alone, strongly augmented.
        ema: decay of the teacher's weights (authors' code, ClassMix); None takes the network itself, as the paper does.
        confidence: the consistency loss weighs as much as the share of pixels above it.
        consistency: weight of Eq. 10.
        contrast: weight of the regional contrast of ``reco``.
        negative: weight of Eq. 7 on the easy images.
        balance: 0 draws easy images evenly, 1 by the rarity of the classes that they show.
        hand_on: the ``ema`` teacher or the trained ``student`` becomes the adapted model.
    """

    mix: Literal["class_mix", "cut_mix", "reco", "none"] = "class_mix"
    ema: Decay | None = 0.99
    confidence: Share = 0.968
    consistency: NonNegative = 1.0
    contrast: NonNegative = 1.0
    negative: NonNegative = 0.0
    balance: Share = 0.0
    hand_on: Literal["ema", "student"] = "ema"

    @model_validator(mode="after")
    def _ema_exists(self) -> Self:
        if self.hand_on == "ema" and self.ema is None:
            raise ValueError("hand_on is ema but ema is null; set ema or hand_on: student")
        return self


class EvidenceSection(Section):
    """What is measured on the target without labels after each training stage, and what a collapse does.

    Attributes:
        images: target images it is measured on, evenly spread; 0 takes all.
        on_collapse: ``stop`` ends the stage with what was seen and leaves nothing, ``revert`` hands on the model that
            the stage began with, ``warn`` says it and goes on.
    """

    images: Whole = 64
    on_collapse: Literal["stop", "revert", "warn"] = "warn"


class EvaluateSection(Section):
    """What is measured on the test images.

    Attributes:
        batchnorm_only: also the source model with nothing but its BatchNorm statistics re-estimated on the target;
            has no meaning for a black box.
        flip: predict with the mirrored image averaged in, for every model alike.
    """

    batchnorm_only: Flag = True
    flip: Flag = False


class RegisterSection(Section):
    """The adapted model in MLflow's registry.

    Attributes:
        name: of the registered model.
        alias: given to the new version.
        champion: alias of the version in use, which the gate moves.
        promote: ``auto`` makes a new version champion where it is measured to be better, ``never`` leaves it to people.
        gain: percentage points of mIoU that it must be better by.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.\- ]*$")] = "atp"
    alias: str = "candidate"
    champion: str = "champion"
    promote: Literal["auto", "never"] = "auto"
    gain: NonNegative = 0.0

    @model_validator(mode="after")
    def _aliases_are_free(self) -> Self:
        for alias in (self.alias, self.champion):
            if not re.fullmatch(ALIAS_PATTERN, alias):
                raise ValueError(f"alias {alias!r} is no word, or MLflow's own as latest and v1 are; give another")
        if self.alias.lower() == self.champion.lower():
            raise ValueError(f"alias and champion are both {self.alias}; the gate needs two")
        return self


class Params(Section):
    """The whole of params.yaml: of a source model that is there (``source``, ``align``), or of a black box (``query``,
    ``distill``)."""

    data: DataSection
    model: NetworkConfig
    training: TrainingSection = TrainingSection()
    runtime: RuntimeSection = RuntimeSection()
    source: SourceSection | None = None
    align: AlignSection | None = None
    query: QuerySection | None = None
    distill: DistillSection | None = None
    rounds: dict[str, Round]
    dump: DumpSection = DumpSection()
    teach: TeachSection
    split: SplitSection
    propagate: PropagateSection
    evidence: EvidenceSection = EvidenceSection()
    evaluate: EvaluateSection = EvaluateSection()
    register_: RegisterSection = Field(default=RegisterSection(), alias="register")

    @property
    def black_box(self) -> bool:
        """Whether only the source model's predictions are known."""
        return self.query is not None

    @property
    def first(self) -> Path:
        """Where the model lies that the first round begins with."""
        return Path("runs/distill" if self.black_box else "runs/align")

    def network(self, space: LabelSpace) -> NetworkConfig:
        """The section ``model``, for the classes of the data and those that a given model has.

        Raises:
            InputError: a class map that does not fit.
        """
        # The answers of a black box are mapped before they are stored.
        class_map = None if self.black_box else self.data.mapped_ids()
        return self.model.model_copy(update={"num_classes": space.num_classes, "class_map": class_map})

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> Self:
        white, black = {"source", "align"}, {"query", "distill"}
        given = {name for name in white | black if getattr(self, name) is not None}
        if given not in (white, black):
            raise ValueError(
                "there must be the sections source and align, or for a black box query and distill; "
                f"there {'is' if len(given) == 1 else 'are'} {', '.join(sorted(given)) or 'none of them'}"
            )
        if self.black_box and self.dump.source_weight > 0:
            raise ValueError("dump.source_weight: of a black box there is no model to average in; set it to 0")
        return self

    @model_validator(mode="after")
    def _class_map_has_a_model(self) -> Self:
        if self.model.class_map is not None:
            raise ValueError("model.class_map is worked out by ATP; give data.class_map")
        if self.data.class_map is not None and self.source is not None and self.source.checkpoint is None:
            raise ValueError("data.class_map is for a given model; set source.checkpoint, or leave it out")
        return self

    @model_validator(mode="after")
    def _files_are_seen(self) -> Self:
        root, weights = self.data.source.root, self.model.weights
        given = {
            "source.checkpoint": self.source.checkpoint if self.source else None,
            "query.folder": self.query.folder if self.query else None,
            "model.weights": None if self.black_box or weights in ("none", "imagenet") else Path(weights),
            "data.classes": self.data.classes if isinstance(self.data.classes, Path) else None,
            "data.class_map": self.data.class_map if isinstance(self.data.class_map, Path) else None,
        }
        for name, path in given.items():
            if path is not None and not path.is_relative_to(root):
                raise ValueError(f"{name} {path} is not below data.source.root {root}; DVC would not see it change")
        if self.black_box and weights not in ("none", "imagenet") and not Path(weights).is_relative_to(self.model.code):
            raise ValueError(
                f"model.weights {weights} is not below model.code {self.model.code}: a student's stage cannot open "
                "data.source.root; put its weights into a folder and set model.code to that"
            )
        return self

    @model_validator(mode="after")
    def _rounds_follow(self) -> Self:
        """Every round starts from what comes before it, and the split from something that exists."""
        made = [self.first]
        if not self.rounds:
            raise ValueError(f"rounds is empty; give at least r01: {{model: {self.first}}}")
        for key, entry in self.rounds.items():
            if entry.model not in made:
                raise ValueError(f"rounds.{key}.model is {entry.model}; it must be one of {', '.join(map(str, made))}")
            made.append(Path("runs/teach") / key)
        if self.split.model not in made:
            raise ValueError(f"split.model is {self.split.model}; it must be one of {', '.join(map(str, made))}")
        return self


SectionType = TypeVar("SectionType", bound=Section)


def needed(section: SectionType | None, name: str) -> SectionType:
    """A section that this pipeline may not have, where a stage needs it.

    Raises:
        InputError: it has not.
    """
    if section is None:
        raise InputError(f"params.yaml: {name}: missing; the stage {name} is of the other pipeline, or add it")
    return section


def checked(kind: type[SectionType], values: Mapping[str, Any], where: str) -> SectionType:
    """Settings that the whole of params.yaml leaves open, as a section.

    Args:
        where: they stand, for the message.

    Raises:
        InputError: an entry is unknown, missing, of the wrong type or out of range.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}.{_explain(error, kind)}") from error


def load_params(path: Path = Path("params.yaml"), overrides: Mapping[str, Any] = EMPTY) -> Params:
    """Read and check the whole of params.yaml.

    Args:
        overrides: dotted names and the values to take instead, ``{"teach.epochs": 2}``.

    Raises:
        InputError: missing, not YAML, or an entry that is unknown, of the wrong type or out of range; all of the
            file is checked, since DVC would drop some of it silently (integer keys of a ``foreach``).
    """
    tree = read_params(path, overrides)
    rounds = tree.get("rounds")
    for key in rounds if isinstance(rounds, dict) else ():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", key):
            raise InputError(
                f"{path}: rounds.{key}: DVC drops keys that are no words without an error; call it r{key:0>2}"
            )
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from error
    if params.align and params.align.rival:
        rival_settings(params.align, path)
    return params


def rival_settings(align: AlignSection, path: Path = Path("params.yaml")) -> RivalSettings:
    """The settings of the rival that takes the place of align.

    Raises:
        InputError: the rival has no such setting, or it is of the wrong type or out of range.
    """
    # Here, as it imports PyTorch.
    rival = import_module(f"atp.rivals.{align.method}")
    settings: RivalSettings = checked(rival.Settings, align.rival, f"{path}: align.rival")
    return settings


def read_params(path: Path, overrides: Mapping[str, Any] = EMPTY) -> dict[str, Any]:
    """params.yaml as it stands, unchecked, with some entries replaced."""
    tree = _read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: must be a mapping of sections, see the example in the repository")
    return replaced(tree, overrides)


def replaced(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping with dotted entries replaced."""
    tree = copy.deepcopy(tree)
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        node: Any = tree
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise InputError(f"{dotted}: there is no {'.'.join(path)} in the parameters to change")
        node[last] = value
    return tree


def setting(params: Mapping[str, Any], dotted: str) -> Any:
    """An entry of params.yaml by its dotted name; None where there is none."""
    node: Any = params
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _read_yaml(path: Path) -> object:
    # YAML 1.2, as DVC reads it: in YAML 1.1 1e-3 is a string and `no` a boolean.
    try:
        return YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run from the root of the project") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}: line {mark.line + 1 if mark else '?'}: not YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _read_classes(path: Path) -> tuple[ClassEntry, ...]:
    tree = _read_yaml(path)
    if not isinstance(tree, list):
        raise InputError(f"{path}: must be a list of {{name: road, color: [128, 64, 128]}}, in the order of their ids")
    try:
        return tuple(ClassEntry.model_validate(entry) for entry in tree)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError, kind: type[BaseModel] = Params) -> str:
    """The first complaint in the words of params.yaml, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys([str(part) for part in first["loc"][:-1]], kind)
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        text = f"{where}: unknown key" + (f"; is it {near[0]}?" if near else f"; known here: {', '.join(known)}")
    elif first["type"] == "missing":
        text = f"{where}: missing; add it"
    elif first["type"] == "value_error":
        text = (f"{where}: " if where else "") + first["msg"].removeprefix("Value error, ")
    else:
        message = first["msg"][0].lower() + first["msg"][1:]
        text = f"{where}: {message}, not {first['input']!r}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _known_keys(loc: list[str], model: type[BaseModel]) -> list[str]:
    for part in loc:
        field = next((f for n, f in model.model_fields.items() if (f.alias or n) == part), None)
        annotation = field.annotation if field else None
        # A section that may be missing is a union with None.
        annotation = next((a for a in get_args(annotation) if a is not type(None)), annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [field.alias or name for name, field in model.model_fields.items()]
