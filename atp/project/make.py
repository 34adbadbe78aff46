"""Make a project of the user's own: data, parameters, pipeline, and their version control."""

import io
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from os import getpid
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

import atp
from atp.checks.images import is_labels
from atp.data.folder import Sample, evenly_spread
from atp.errors import InputError
from atp.models.named import NamedNetwork, named_network
from atp.models.own import project_modules
from atp.params import Params, load_params
from atp.project.guess import guess_classes, guess_size
from atp.project.pipeline import project_pipeline
from atp.project.readme import readme
from atp.project.request import Part, Request
from atp.registry.origin import git
from atp.runs import ORIGIN

GIVEN, TRAINED = (Path(__file__).with_name(f"{name}.yaml") for name in ("given-model", "streets"))
"""The parameters for a model that is given and for one that is trained; in the repository, links to its presets."""

SHOWN = 20
"""Number of target images that stand in for test images if there are none."""

SOURCE = Path("data/source")
"""Folder of the source model, and of the source data if it is trained."""

IGNORED = (
    *("/runs/", "/masks/", "/overlays/", "/soft/", "/predictions.json"),
    *("/.atp/", "/mlflow.db*", "/mlruns/", "/mlartifacts/", "__pycache__/"),
)

Tell = Callable[[str], None]


def is_project(folder: Path) -> bool:
    """Whether a folder is a project that this module made."""
    return (folder / ORIGIN).is_file()


def read_origin(folder: Path) -> dict[str, Any]:
    """The options with which a project was made, see ``Request.as_json``."""
    options: dict[str, Any] = json.loads((folder / ORIGIN).read_text())["options"]
    return options


def make_project(folder: Path, request: Request, tell: Tell) -> None:
    """Make a project in a new folder; nothing is left behind if that fails.

    Args:
        folder: does not exist yet, or is empty.
        tell: is called with a line for each choice that was made.

    Raises:
        InputError: the folder is not empty, or something is missing, wrong or does not fit.
    """
    if is_project(folder):
        raise InputError(f"{folder}: is a project already; change its params.yaml, or choose another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not empty; choose a new folder")
    parts, checkpoint, classes, changes = request.parts(), request.checkpoint(), request.class_file(), request.changes()
    samples = {name: part.samples() for name, part in parts.items()}
    if checkpoint is None and "source" not in parts and not request.network.startswith("hf:"):
        raise InputError("--model: missing; give the source model's checkpoint, or --data with labelled source images")
    # A whole section by --set describes one of ATP's own networks.
    if checkpoint is not None and not request.network and "model" not in changes:
        raise InputError(
            "--network: missing; say what the checkpoint is of: hf:FOLDER, torchvision:deeplabv3_resnet50, "
            "smp:Unet?encoder_name=resnet18, or package.module:callable"
        )
    if is_labels(samples["target"]):
        raise InputError(f"{parts['target'].images}: look like labels, class ids alone; give the folder of the images")
    options = request.as_json()
    with _new(folder.absolute()) as place:
        (place / SOURCE).mkdir(parents=True)
        given = _bring_checkpoint(checkpoint, place)
        with _told_of(given, checkpoint):
            network = _network(request.network, given, place, tell)
        values = _data(place, parts, samples, link=request.link, tell=tell)
        mapped = changes.get("data.class_map") is not None
        names, line = guess_classes(classes, network, samples["target"], mapped=mapped)
        tell(line)
        values["data.classes"] = names
        if classes is not None:
            values["data.classes"] = str(SOURCE / "classes.yaml")
            shutil.copyfile(classes, place / SOURCE / "classes.yaml")
        if not request.size:
            values["data.size"], line = guess_size(samples["target"], network)
            tell(line)
        if network is not None:
            values["model"], given = network.model, network.checkpoint
        if given is not None:
            values["source.checkpoint"] = str(given)
        preset = TRAINED if "source" in parts else GIVEN
        (place / "params.yaml").write_text(edited(preset.read_text(), values | changes))
        with chdir(place):
            shorter = _shorter_warmups(_checked_params(), len(samples["target"]))
        shorter = {name: steps for name, steps in shorter.items() if name not in changes}
        (place / "params.yaml").write_text(edited(preset.read_text(), values | shorter | changes))
        linked = [name for name, value in values.items() if _is_outside(value)]
        outside = [f"{name}.{kind}" for name in linked for kind, path in values[name].items() if path]
        (place / "dvc.yaml").write_text(project_pipeline(outside))
        (place / "README.md").write_text(readme(folder.absolute().name, options, held_out="test" in parts))
        (place / ORIGIN).write_text(json.dumps({"atp": atp.__version__, "options": options}, indent=2) + "\n")
        (place / ".gitignore").write_text("".join(f"{line}\n" for line in IGNORED))
        _put_under_version_control(place, place.parent, tell)


def bring_new_images(folder: Path, tell: Tell) -> None:
    """Copy images and labels that were added or changed since a project was made from them.

    Raises:
        InputError: an image has no label, or two have one name.
    """
    request = Request.from_json(read_origin(folder))
    if request.link:
        return
    try:
        parts = request.parts()
    except InputError as error:
        tell(f"{error}; goes on with the project's copies")
        return
    brought = False
    for name, part in parts.items():
        count = len(_copy(part, part.samples(), folder, name))
        if count:
            tell(f"{part.images}: {count} new or changed files, labels included; copied to {folder / 'data' / name}")
            brought = True
    if brought:
        # Slow import, about a second.
        from dvc.repo import Repo

        with chdir(folder), Repo(".") as repo:
            repo.add("data")


def _shorter_warmups(params: Params, images: int) -> dict[str, int]:
    """Warm-ups of at most a third of a training, where few images make few steps."""
    easy = round(images * params.split.easy_ratio)
    found = {}
    for stage, count in (("align", images), ("teach", images), ("propagate", easy)):
        section = getattr(params, stage)
        if section is None or section.epochs is None:
            continue
        most = section.epochs * max(1, count // section.batch_size) // 3
        if section.warmup_steps > most:
            found[f"{stage}.warmup_steps"] = most
    return found


def _checked_params() -> Params:
    """The parameters of the project in the working folder.

    Raises:
        InputError: an option sets what is unknown, of the wrong type or out of range.
    """
    try:
        params = load_params()
        params.network(params.data.label_space())
        return params
    except InputError as error:
        raise InputError(*(line.replace("params.yaml: ", "--set ", 1) for line in error.lines)) from error


@contextmanager
def _told_of(copy: Path | None, original: Path | None) -> Iterator[None]:
    """Errors about the copy in the project, which nobody finds after an error, are about the file that was given."""
    try:
        yield
    except InputError as error:
        raise InputError(*(line.replace(str(copy), str(original)) for line in error.lines)) from error


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A temporary folder, renamed to ``folder`` on success and deleted otherwise."""
    place = folder.with_name(f".{folder.name}.{getpid()}.tmp")
    try:
        place.mkdir(parents=True)
        yield place
        if folder.exists():
            folder.rmdir()
        place.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _bring_checkpoint(checkpoint: Path | None, place: Path) -> Path | None:
    """Copy the source model into the project; returns its path there."""
    if checkpoint is None:
        return None
    into = SOURCE / checkpoint.name
    (shutil.copytree if checkpoint.is_dir() else shutil.copyfile)(checkpoint, place / into)
    return into


def _network(name: str, checkpoint: Path | None, place: Path, tell: Tell) -> NamedNetwork | None:
    """The network that is named, its code brought into the project; None for one of ATP's own.

    Args:
        checkpoint: the source model's path in the project.
    """
    if not name:
        return None
    kind, _, rest = name.partition(":")
    if kind == "hf" and Path(rest).is_dir():
        name = f"hf:{Path(rest).absolute()}"
    own = _own_code(kind) if kind not in ("hf", "torchvision", "smp") else None
    with chdir(place):
        found = named_network(name, checkpoint, into=SOURCE)
    if own is not None:
        others = [file for file in project_modules() if not file.is_relative_to(own)]
        if others:
            raise InputError(
                f"--network {name}: {others[0]} is part of its code, but not {'in' if own.is_dir() else 'the file'} "
                f"{own}; put both into a package, a folder with __init__.py"
            )
        if own.is_dir():
            shutil.copytree(own, place / own.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(own, place / own.name)
        found.model["code"] = own.name
    for note in found.notes:
        tell(note)
    if kind != "hf":
        tell(
            "normalisation: ImageNet's mean and standard deviation of RGB images, a guess; --set model.mean=[...], "
            "--set model.std=[...] and --set model.channels=bgr set others"
        )
    return found


def _own_code(module: str) -> Path | None:
    """The file or folder of a module that is not installed, but lies in the working folder."""
    top = module.partition(".")[0]
    path = Path.cwd() / top
    found = next((each for each in (path, path.with_suffix(".py")) if each.exists()), None)
    return found if top not in sys.stdlib_module_names else None


def _data(
    place: Path, parts: Mapping[str, Part], samples: Mapping[str, Sequence[Sample]], *, link: bool, tell: Tell
) -> dict[str, Any]:
    """Bring images and labels into the project, or point at them; returns entries of params.yaml."""
    values: dict[str, Any] = {"data.root": "data", "data.source": {"root": str(SOURCE)}, "data.validation": None}
    for name, part in parts.items():
        if link and name != "source":
            labels = str(part.labels.resolve()) if part.labels else None
            values[f"data.{name}"] = {"images": str(part.images.resolve()), "labels": labels}
            continue
        _copy(part, samples[name], place, name)
        if name != "source":
            values[f"data.{name}"] = _section(part, name)
    if "test" not in parts:
        shown = evenly_spread(samples["target"], SHOWN)
        _copy(parts["target"], shown, place, "test")
        values["data.test"] = _section(parts["target"], "test")
        tell(
            f"test images: none given; {len(shown)} of the {len(samples['target'])} images stand in to show results, "
            "although adaptation sees them; --test names others"
        )
    return values


def _copy(part: Part, samples: Sequence[Sample], place: Path, name: str) -> list[Path]:
    """Copy images and labels to ``data/NAME``; returns those that were not there yet, or changed since."""
    to, copied = place / "data" / name, []
    for sample in samples:
        pairs = [(sample.image, to / "images" / sample.image.relative_to(part.images))]
        if sample.label is not None:
            pairs.append((sample.label, to / "labels" / f"{sample.name}.png"))
        for old, new in pairs:
            # A copy that was changed here is later than its original.
            if new.exists() and old.stat().st_mtime <= new.stat().st_mtime:
                continue
            new.parent.mkdir(parents=True, exist_ok=True)
            # It may be a link into DVC's cache.
            new.unlink(missing_ok=True)
            shutil.copyfile(old, new)
            copied.append(new)
    return copied


def _section(part: Part, name: str) -> dict[str, str | None]:
    """The section of params.yaml about images and labels in ``data/NAME``."""
    return {"images": f"data/{name}/images", "labels": f"data/{name}/labels" if part.labels else None}


def _is_outside(value: object) -> bool:
    """Whether an entry of params.yaml points at images outside the project."""
    return isinstance(value, Mapping) and Path(str(value.get("images", ""))).is_absolute()


def edited(text: str, values: Mapping[str, Any]) -> str:
    """Parameters with other values, and the same comments.

    Args:
        values: by dotted name.

    Raises:
        InputError: the parameters have no such section.
    """
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    tree = yaml.load(text)
    for dotted, value in values.items():
        *path, last = dotted.split(".")
        node: Any = tree
        for part in path:
            node = node.get(part) if isinstance(node, CommentedMap) else None
        if not isinstance(node, CommentedMap):
            raise InputError(f"--set {dotted}: the parameters have no {'.'.join(path)}")
        if path:
            node[last] = _flow(value)
            continue
        # A whole section, the network's: the remarks are about another, and the empty line after it is one of them.
        node[last] = CommentedMap({key: _flow(part) for key, part in value.items()})
        node.ca.items.pop(last, None)
        following = list(node)[list(node).index(last) + 1]
        node.yaml_set_comment_before_after_key(following, before="\n")
    out = io.StringIO()
    yaml.dump(tree, out)
    return re.sub(r"\n{3,}", "\n\n", out.getvalue())


def _flow(value: object) -> object:
    """Lists and mappings in brackets, as the presets have them."""
    if isinstance(value, Mapping):
        mapping = CommentedMap({key: _flow(part) for key, part in value.items()})
        mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list | tuple):
        listed = CommentedSeq([_flow(part) for part in value])
        listed.fa.set_flow_style()
        return listed
    return value


def _put_under_version_control(place: Path, around: Path, tell: Tell) -> None:
    """DVC for the data and results, and git for the rest, unless there is no git or the project is in a repository."""
    # Slow import, about a second.
    from dvc.repo import Repo

    with chdir(around):
        inside = git("rev-parse", "--git-dir") is not None
    own = shutil.which("git") is not None and not inside
    if not own:
        why = f"{around} is in a git repository" if inside else "git is not installed"
        tell(f"git: none of the project's own, since {why}; experiments (dvc exp, atp select --grid) need one")
    with chdir(place):
        if own:
            git("init", "--quiet")
        logging.getLogger("dvc").setLevel(logging.WARNING)
        Repo.init(".", no_scm=not own)
        core = ["analytics = false", "check_update = false", "autostage = true" if own else "no_scm = true"]
        Path(".dvc/config").write_text("[core]\n" + "".join(f"    {line}\n" for line in core))
        with Repo(".") as repo:
            repo.add("data")
        if own:
            git("add", "--all")
            message = ("commit", "--quiet", "--message", "atp init")
            if git(*message) is None:
                git("-c", "user.name=atp", "-c", "user.email=atp@localhost", *message)
