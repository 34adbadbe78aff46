"""``params.yaml`` as a whole, typed and validated; each section is defined in the package that reads it."""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from atp.black_box.settings import QuerySettings
from atp.data.labels import LabelSpace
from atp.data.settings import DataSettings
from atp.errors import InputError
from atp.evaluation.settings import EvaluateSettings, EvidenceSettings
from atp.method.choice import chosen
from atp.method.settings import AdaptSettings, MethodSections
from atp.models.config import NetworkConfig, hf_folder
from atp.registry.settings import RegisterSettings
from atp.runs import ALIGN, DISTILL, taught
from atp.settings import EMPTY, SectionType, problems, read_yaml
from atp.training.settings import RuntimeSettings, TrainingSettings


class Params(MethodSections):
    """All sections of params.yaml, with ``source`` and ``align``, or for a black box ``query`` and ``distill``."""

    data: DataSettings
    model: NetworkConfig
    training: TrainingSettings = TrainingSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    query: QuerySettings | None = None
    evidence: EvidenceSettings = EvidenceSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    register_: RegisterSettings = Field(default=RegisterSettings(), alias="register")

    @property
    def black_box(self) -> bool:
        """Whether only the source model's predictions are available."""
        return self.query is not None

    @property
    def first(self) -> Path:
        """Folder of the model from which the first round starts."""
        return DISTILL if self.black_box else ALIGN

    def network(self, space: LabelSpace) -> NetworkConfig:
        """The section ``model``, completed with the data's number of classes, the class map and what its name means.

        Raises:
            InputError: if the class map does not fit, or a named network cannot be found.
        """
        # The predictions of a black box are mapped before they are stored.
        class_map = None if self.black_box else self.data.mapped_ids()
        # PyTorch is not needed by every command.
        from atp.models.named import completed

        return completed(self.model.model_copy(update={"num_classes": space.num_classes, "class_map": class_map}))

    def adapt_settings(self) -> AdaptSettings:
        """Settings with which ``atp.adapt`` computes the same as the stages.

        Raises:
            InputError: if the stages' graph differs from Algorithm 1, which ``adapt`` follows.
        """
        rounds = {f"r{number:02}": Path("runs/teach") / f"r{number:02}" for number in range(1, len(self.rounds) + 1)}
        chain = [(key, entry.model) for key, entry in self.rounds.items()]
        if self.black_box or [*chain, ("split", self.split.model)] != list(
            zip([*rounds, "split"], [self.first, *rounds.values()], strict=True)
        ):
            raise InputError(
                "params.yaml: rounds: differ from Algorithm 1; adapt needs a source model, rounds r01, r02, ... that "
                "each start from the previous one, and the last one as split.model"
            )
        return AdaptSettings(
            size=self.data.size,
            crop=self.data.crop,
            window=self.data.window,
            seed=self.training.seed,
            align=self.align,
            rounds=len(self.rounds),
            dump=self.dump,
            teach=self.teach,
            easy_ratio=self.split.easy_ratio,
            propagate=self.propagate,
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rules = (self._kinds_of_source, self._class_maps, self._unseen_files, self._wrong_rounds)
        if lines := [line for rule in rules for line in rule()]:
            raise ValueError("\n".join(lines))
        return self

    def _kinds_of_source(self) -> Iterator[str]:
        white, black = {"source", "align"}, {"query", "distill"}
        given = {name for name in white | black if getattr(self, name) is not None}
        if given not in (white, black):
            yield (
                "needs the sections source and align, or for a black box query and distill; "
                f"found {', '.join(sorted(given)) or 'none of them'}"
            )
        elif self.black_box and self.dump.source_weight > 0:
            yield "dump.source_weight: a black box has no source model to average with; set it to 0"

    def _class_maps(self) -> Iterator[str]:
        if self.model.class_map is not None:
            yield "model.class_map is computed by ATP; set data.class_map instead"
        if self.data.class_map is not None and self.source is not None and self.source.checkpoint is None:
            yield "data.class_map is only for a given model; set source.checkpoint, or leave it out"

    def _unseen_files(self) -> Iterator[str]:
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
                yield f"{name} {path} is not below data.source.root {root}; DVC would not see it change"
        # A student's stage cannot open data.source.root.
        seen = ({} if self.black_box else {"data.source.root": root}) | {"model.code": self.model.code}
        named = hf_folder(self.model.network)
        if named is not None and not any(named.is_relative_to(place) for place in seen.values()):
            places = " or ".join(f"{name} {place}" for name, place in seen.items())
            yield f"model.network {named} is not below {places}; DVC would not see it change"
        if self.black_box and weights not in ("none", "imagenet") and not Path(weights).is_relative_to(self.model.code):
            yield (
                f"model.weights {weights} is not below model.code {self.model.code}: a student's stage cannot open "
                "data.source.root; put its weights into a folder and set model.code to that"
            )

    def _wrong_rounds(self) -> Iterator[str]:
        """Every round starts from an earlier model, and split.model exists."""
        made = [self.first]
        if not self.rounds:
            yield f"rounds is empty; give at least r01: {{model: {self.first}}}"
        for key, entry in self.rounds.items():
            if entry.model not in made:
                yield f"rounds.{key}.model is {entry.model}; it must be one of {', '.join(map(str, made))}"
            made.append(taught(key))
        if self.split.model not in made:
            yield f"split.model is {self.split.model}; it must be one of {', '.join(map(str, made))}"


def needed(section: SectionType | None, name: str) -> SectionType:
    """Return the section, or fail if this pipeline lacks it.

    Raises:
        InputError: if the section is missing.
    """
    if section is None:
        raise InputError(f"params.yaml: {name}: missing; add it, or skip the stage, which is for the other pipeline")
    return section


def load_params(path: Path = Path("params.yaml"), overrides: Mapping[str, Any] = EMPTY) -> Params:
    """Read and validate params.yaml.

    Args:
        overrides: values that replace entries, by dotted name, such as ``{"teach.epochs": 2}``.

    Raises:
        InputError: if the file is missing or not YAML, or an entry is unknown, of the wrong type or out of range. The
            whole file is checked, since DVC silently drops integer keys of a ``foreach``.
    """
    tree = read_params(path, overrides)
    rounds = tree.get("rounds")
    # DVC drops integer keys of a ``foreach`` without an error.
    dropped = [
        key
        for key in (rounds if isinstance(rounds, dict) else ())
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", key)
    ]
    lines = [f"rounds.{key}: DVC silently drops keys that are not words; rename it to r{key:0>2}" for key in dropped]
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        # For pydantic, such keys are wrong too.
        lines += [line for line in problems(error, Params) if not (dropped and line.startswith("rounds."))]
    if lines:
        raise InputError(*(f"{path}: {line}" for line in lines))
    if params.align and params.align.baseline:
        chosen(params.align, f"{path}: align.baseline")
    return params


def read_params(path: Path, overrides: Mapping[str, Any] = EMPTY) -> dict[str, Any]:
    """Read params.yaml without validation, with some entries replaced."""
    tree = read_yaml(path, "run from the root of the project")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: must be a mapping of sections, see the example in the repository")
    return replaced(tree, overrides)


def replaced(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a nested mapping, replacing entries by dotted name."""
    tree = copy.deepcopy(tree)
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        node: Any = tree
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise InputError(f"{dotted}: cannot be set, the parameters have no {'.'.join(path)}")
        node[last] = value
    return tree


def setting(params: Mapping[str, Any], dotted: str) -> Any:
    """Look up an entry of params.yaml by its dotted name; None if it does not exist."""
    node: Any = params
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
