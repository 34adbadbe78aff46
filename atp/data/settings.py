"""The section ``data``, and the changes that training makes to its images."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from atp.data.labels import IGNORE, LabelSpace
from atp.errors import InputError
from atp.settings import Channel, Count, Flag, Positive, Section, Share, explain, read_yaml

IGNORED_NAME = "ignore"
"""In a class map, what a class becomes that the target does not have."""


class SourceData(Section):
    """What there is of the source domain: class names, and labelled images or nothing but the given checkpoint.

    Attributes:
        root: holds either; the stage ``source`` depends on it, and every stage after it is kept out of it.
        images: folder; ``images`` below ``root`` if not given.
        labels: folder; ``labels`` below ``root`` if not given.
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


class DataSettings(Section):
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
    protocols: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default={})

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
            pairs = _check_class_map(read_yaml(self.class_map) if isinstance(self.class_map, Path) else self.class_map)
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


def _read_classes(path: Path) -> tuple[ClassEntry, ...]:
    tree = read_yaml(path)
    if not isinstance(tree, list):
        raise InputError(f"{path}: must be a list of {{name: road, color: [128, 64, 128]}}, in the order of their ids")
    try:
        return tuple(ClassEntry.model_validate(entry) for entry in tree)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, ClassEntry)}") from error


class Augmentation(Section):
    """Random changes to training images.

    Attributes:
        flip: mirror half of the images.
        scale: range of random zoom before the crop, without which there is none; (1, 1) is none.
        jitter: strength of colour jitter: brightness, contrast and saturation by up to this share, hue by a quarter.
        blur: Gaussian blur for half of the images.
    """

    flip: Flag = True
    # A list: DVC reads the defaults here, and would not find a tuple again in its lock file.
    scale: tuple[Positive, Positive] = [1.0, 1.0]  # type: ignore[assignment]
    jitter: Share = 0.0
    blur: Flag = False
