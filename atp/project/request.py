"""What ``atp init`` and ``atp adapt`` are asked for: model, network, images, and settings that differ."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atp.data.folder import Sample, list_samples
from atp.errors import InputError

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors", ".bin")


@dataclass(frozen=True)
class Part:
    """A folder of images and, optionally, the folder of their labels."""

    images: Path
    labels: Path | None = None

    def samples(self) -> list[Sample]:
        """All images, each with its label.

        Raises:
            InputError: there are none, or a label is missing.
        """
        return list_samples(self.images, self.labels)


@dataclass(frozen=True)
class Request:
    """The options of both commands; empty or None is one that was not given.

    Attributes:
        model: the source model's state dict.
        network: its network by name, see ``atp.models.named``; empty is one of ATP's own.
        images: target images: a folder of images, or one with ``images`` and ``labels`` in it.
        labels: labels of the target images, to measure with.
        test, validation: held-out images, folders like ``images``.
        data: a folder in ATP's layout, which provides what the options above leave out.
        classes: file of the classes.
        size: WIDTHxHEIGHT at which images are read.
        epochs: of each training stage of the adaptation.
        device, seed: see ``runtime`` and ``training``.
        set: NAME=VALUE, any other parameters.
        link: leave images where they are instead of copying them into the project.
    """

    model: Path | None = None
    network: str = ""
    images: Path | None = None
    labels: Path | None = None
    test: Path | None = None
    validation: Path | None = None
    data: Path | None = None
    classes: Path | None = None
    size: str = ""
    epochs: int | None = None
    device: str = ""
    seed: int | None = None
    set: tuple[str, ...] = ()
    link: bool = False

    def as_json(self) -> dict[str, Any]:
        """The options that were given, with absolute paths."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: str(value.resolve()) if isinstance(value, Path) else list(value) if name == "set" else value
            for name, value in given.items()
            if value not in (None, "", (), False)
        }

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> "Request":
        """The inverse of ``as_json``."""
        paths = {each.name for each in fields(cls) if each.type == Path | None}
        given = {name: Path(value) if name in paths else value for name, value in options.items()}
        return cls(**given | {"set": tuple(options.get("set", ()))})

    def parts(self) -> dict[str, Part]:
        """The folders of images by the name of their domain in params.yaml: ``target`` and, if given, the others.

        Raises:
            InputError: a folder is missing, or no target images are given.
        """
        places = {
            "target": ("--images", self.images),
            "test": ("--test", self.test),
            "validation": ("--validation", self.validation),
        }
        found = {}
        for name, (option, folder) in places.items():
            if folder is not None:
                found[name] = _part(option, folder)
            elif self.data is not None and (name == "target" or (self.data / name).is_dir()):
                found[name] = _part("--data", self.data / name)
        if "target" not in found:
            raise InputError("--images: missing; give the folder of images of the new domain")
        if self.labels is not None:
            _check_folder("--labels", self.labels)
            found["target"] = Part(found["target"].images, self.labels)
        if self.data is not None and self.model is None and (self.data / "source/images").is_dir():
            found["source"] = _part("--data", self.data / "source")
        return found

    def checkpoint(self) -> Path | None:
        """The source model's file; None if there is none, as for a network that brings its own weights.

        Raises:
            InputError: the file does not exist, or ``data`` holds several.
        """
        if self.model is not None:
            if not self.model.exists():
                raise InputError(f"--model {self.model}: no such file")
            return self.model
        source = self.data / "source" if self.data is not None else None
        if source is None or (source / "images").is_dir():
            return None
        found = sorted(path for path in source.glob("*") if path.suffix in CHECKPOINTS)
        if len(found) > 1:
            raise InputError(f"{source}: {len(found)} model files ({', '.join(p.name for p in found)}); give --model")
        return found[0] if found else None

    def class_file(self) -> Path | None:
        """The file of the classes, if there is one.

        Raises:
            InputError: the one that is given does not exist.
        """
        if self.classes is not None:
            if not self.classes.is_file():
                raise InputError(f"--classes {self.classes}: no such file")
            return self.classes
        path = self.data / "source/classes.yaml" if self.data is not None else None
        return path if path is not None and path.is_file() else None

    def changes(self) -> dict[str, Any]:
        """Entries of params.yaml that differ from the preset's, by dotted name.

        Raises:
            InputError: ``set`` or ``size`` has another form.
        """
        changed: dict[str, Any] = {}
        if self.size:
            if not re.fullmatch(r"\d+[xX]\d+", self.size):
                raise InputError(f"--size {self.size}: must be WIDTHxHEIGHT, as in 1024x512")
            changed["data.size"] = [int(side) for side in self.size.lower().split("x")]
            if not all(changed["data.size"]):
                raise InputError(f"--size {self.size}: width and height must be at least 1")
        if self.epochs is not None:
            changed |= {f"{stage}.epochs": self.epochs for stage in ("align", "teach", "propagate")}
        if self.device:
            changed["runtime.device"] = self.device
        if self.seed is not None:
            changed["training.seed"] = self.seed
        return changed | dict(map(assignment, self.set))


def _part(option: str, folder: Path) -> Part:
    _check_folder(option, folder)
    if not (folder / "images").is_dir():
        return Part(folder)
    labels = folder / "labels"
    return Part(folder / "images", labels if labels.is_dir() else None)


def _check_folder(option: str, folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{option} {folder}: {'not a folder but a file' if folder.exists() else 'no such folder'}")


def assignment(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE; the value is YAML.

    Raises:
        InputError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: must be NAME=VALUE, as in teach.epochs=2")
    try:
        return name, YAML(typ="safe", pure=True).load(value)
    except YAMLError as error:
        raise InputError(f"--set {text}: its value is not YAML") from error


def differences(made: Mapping[str, Any], request: Request) -> list[str]:
    """Options that now have another value than those a project was made with, one line each."""
    now = request.as_json()
    return [
        f"--{name} is {_shown(now[name])} here, but {_shown(made[name]) if name in made else 'was not given'} when the "
        "project was made"
        for name in now
        if made.get(name) != now[name]
    ]


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
