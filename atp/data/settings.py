"""The section ``data``, and the augmentation of training images."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from atp.data.labels import IGNORE, LabelSpace
from atp.data.reading import Reading
from atp.errors import InputError, grouped
from atp.settings import Channel, Flag, Positive, Section, Share, Size, problems, read_yaml

IGNORED_NAME = "ignore"
"""In a class map, the target of a class that the target domain lacks."""


def check_reading(size: tuple[int, int] | None, window: tuple[int, int] | None) -> None:
    """Check that windows fit into images of this size.

    Raises:
        ValueError: if they do not.
    """
    try:
        Reading(size, window)
    except InputError as error:
        raise ValueError(f"window: {error}") from error


class SourceData(Section):
    """The source domain: class names, and labelled images or only the given checkpoint.

    Attributes:
        root: folder that contains either; the stage ``source`` depends on it, and later stages cannot open it.
        images: folder of images; by default ``images`` below ``root``.
        labels: folder of labels; by default ``labels`` below ``root``.
        size: (width, height) at which the source model is trained; None uses ``data.size``.
    """

    root: Path
    images: Path = Path()
    labels: Path = Path()
    size: Size | None = None

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
    """Folder of images and, optionally, of their labels."""

    images: Path
    labels: Path | None = None


class ClassEntry(Section):
    """One class of the label space, in id order."""

    name: str
    color: tuple[Channel, Channel, Channel]


class DataSettings(Section):
    """Paths of the images, and the size at which they are read.

    Attributes:
        root: the folder imported by ``data.dvc``; it contains all other paths.
        source: labelled source images; read only by the stage ``source``.
        target: unlabelled target images; their labels, if any, are read only by ``evaluate``.
        test: held-out target images with labels; without labels, only label-free metrics are reported.
        validation: other held-out target images with labels, on which settings and the recommended stage are chosen;
            read only by ``evaluate`` and ``atp study --on validation``. None if there are none.
        classes: a YAML file below ``source.root`` with a list of ``{name, color: [r, g, b]}`` or of names, or that list
            itself.
        class_map: maps the classes of a given model to the target's: a YAML list, or a file below ``source.root`` with
            that list, with a line for each class of the MODEL in the order of ids, ``- its name: the target's name``,
            or ``ignore``. Several classes may map to one. None if the classes are the same.
        size: (width, height) to which every image is resized, also as ``160x80``; None keeps each image's own.
        crop: (width, height) of random training crops; None trains on whole images, which must then have one size.
        window: (width, height) of overlapping windows in which labels are dumped, models evaluated and the adapted
            model predicts, for images larger than the network can take; None predicts whole images.
        protocols: named subsets of the classes; ``evaluate`` also reports the mIoU of each, from the same confusion
            matrix.
    """

    root: Path = Path("data")
    source: SourceData
    target: MaybeLabelled
    test: MaybeLabelled
    validation: MaybeLabelled | None = None
    classes: Path | tuple[ClassEntry, ...]
    class_map: Path | tuple[dict[str, str], ...] | None = None
    size: Size | None = None
    crop: Size | None = None
    window: Size | None = None
    protocols: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default={})

    @property
    def reading(self) -> Reading:
        """How target images are read for prediction."""
        return Reading(self.size, self.window)

    @property
    def source_size(self) -> tuple[int, int] | None:
        """Size at which source images are read."""
        return self.source.size or self.size

    @property
    def held_out(self) -> tuple[MaybeLabelled, ...]:
        """Images of the target's domain that adaptation must not see."""
        return (self.test,) if self.validation is None else (self.test, self.validation)

    @field_validator("classes", mode="before")
    @classmethod
    def _names_or_their_file(cls, value: Any) -> Any:
        return value if isinstance(value, str | Path) else _entries(value)

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        check_reading(self.size, self.window)
        return self

    @field_validator("class_map", mode="before")
    @classmethod
    def _list_or_its_file(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | Path):
            return value
        # A list, since DVC does not notice a changed order of a mapping's entries, and some programs sort them.
        _check_class_map(value)
        return value

    def label_space(self) -> LabelSpace:
        """The classes, from the list or its file.

        Raises:
            InputError: if the file does not exist, or is not a list of at most 255 classes with unique names.
        """
        if isinstance(self.classes, Path):
            return read_classes(self.classes)
        return _label_space(self.classes, "params.yaml: data.classes")

    def protocol_ids(self) -> dict[str, tuple[int, ...]]:
        """The class ids of every protocol.

        Raises:
            InputError: if a name is not a class.
        """
        ids = {name: index for index, name in enumerate(self.label_space().names)}
        for protocol, names in self.protocols.items():
            for name in names:
                if name not in ids:
                    near = difflib.get_close_matches(name, list(ids), n=1)
                    hint = f"is it {near[0]}?" if near else f"choose from {', '.join(ids)}"
                    raise InputError(f"params.yaml: data.protocols.{protocol}: {name}: no such class; {hint}")
        return {protocol: tuple(ids[name] for name in names) for protocol, names in self.protocols.items()}

    def mapped_names(self) -> list[tuple[str, str]] | None:
        """Pairs of a source model's class and its target class or ``ignore``; None if the classes are the same.

        Raises:
            InputError: if the file or a target class does not exist, or no source class maps to a target class.
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
                f"{where}: {IGNORED_NAME} is a class in data.classes, but means no class here; rename the class"
            )
        for name, target in pairs:
            if target not in (*names, IGNORED_NAME):
                near = difflib.get_close_matches(target, [*names, IGNORED_NAME], n=1)
                hint = f"is it {near[0]}?" if near else f"choose from {', '.join(names)}, and {IGNORED_NAME}"
                raise InputError(f"{where}: {name}: {target}: no such class in data.classes; {hint}")
        missing = set(names) - {target for _, target in pairs}
        if missing:
            first = next(name for name in names if name in missing)
            raise InputError(
                f"{where}: no class of the source model maps to {first}, which would never be predicted; "
                "map one to it, or remove it from data.classes"
            )
        if len(pairs) > 255:
            raise InputError(f"{where}: the source model has {len(pairs)} classes; at most 255 are supported")
        return pairs

    def mapped_ids(self) -> tuple[int, ...] | None:
        """Target ids of the source model's classes, 255 = none; None if the classes are the same.

        Raises:
            InputError: see ``mapped_names``.
        """
        pairs = self.mapped_names()
        ids = {name: index for index, name in enumerate(self.label_space().names)} | {IGNORED_NAME: IGNORE}
        return None if pairs is None else tuple(ids[target] for _, target in pairs)


def _check_class_map(tree: object) -> list[tuple[str, str]]:
    """Return the pairs in a class map's list.

    Raises:
        ValueError: if it is malformed.
    """
    entries = tree if isinstance(tree, list | tuple) else [tree]
    pairs = [pair for entry in entries if isinstance(entry, dict) and len(entry) == 1 for pair in entry.items()]
    if (
        isinstance(tree, dict)
        or len(pairs) < len(entries)
        or not all(isinstance(x, str) for pair in pairs for x in pair)
    ):
        raise ValueError("must be a list with a line for each class of the source model: - its name: target name")
    return pairs


def read_classes(path: Path, remedy: str = "correct its path in params.yaml") -> LabelSpace:
    """Read a file of classes: a list of names, or of ``{name, color: [r, g, b]}``.

    Args:
        remedy: what to do if the file is missing, for the error message.

    Raises:
        InputError: if it does not exist or is not a list of 2 to 255 classes with unique names.
    """
    try:
        entries = _entries(read_yaml(path, remedy))
    except ValueError as error:
        raise InputError(*(f"{path}: {line}" for line in str(error).splitlines())) from error
    return _label_space(entries, str(path))


def _entries(tree: object) -> tuple[ClassEntry, ...]:
    """The classes of a list; names without a colour get the one that PASCAL VOC gives the next id, as 0 is black.

    Raises:
        ValueError: if it is malformed.
    """
    if not isinstance(tree, list | tuple):
        raise ValueError("must be a list of {name: road, color: [128, 64, 128]} or of names, in the order of their ids")
    colors = LabelSpace.numbered(len(tree) + 1).colors[1:]
    lines: list[tuple[str, str, str]] = []
    entries = []
    for index, (entry, color) in enumerate(zip(tree, colors, strict=True)):
        if isinstance(entry, str) or (isinstance(entry, dict) and entry.keys() == {"name"}):
            entry = {"name": entry if isinstance(entry, str) else entry["name"], "color": color}
        try:
            entries.append(ClassEntry.model_validate(entry))
        except ValidationError as error:
            lines += [(line, str(index), f"class {index}: {line}") for line in problems(error, ClassEntry)]
    if lines:
        raise ValueError("\n".join(grouped(lines)))
    return tuple(entries)


def _label_space(entries: Sequence[ClassEntry], where: str) -> LabelSpace:
    names = tuple(entry.name for entry in entries)
    if not 2 <= len(names) <= 255:
        raise InputError(f"{where}: {len(names)} classes; list 2 to 255 classes")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: class name {twice[0]!r} appears twice; make names unique")
    return LabelSpace(names, tuple(entry.color for entry in entries))


class Augmentation(Section):
    """Random augmentation of training images.

    Attributes:
        flip: mirror half of the images.
        scale: range of random scaling before the crop; requires ``crop``; (1, 1) disables it.
        jitter: strength of colour jitter: brightness, contrast and saturation by up to this share, hue by a quarter.
        blur: apply Gaussian blur to half of the images.
    """

    flip: Flag = True
    # A list, because DVC reads this default and its lock file does not preserve tuples.
    scale: tuple[Positive, Positive] = [1.0, 1.0]  # type: ignore[assignment]
    jitter: Share = 0.0
    blur: Flag = False
