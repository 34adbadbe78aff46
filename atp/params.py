"""The whole of ``params.yaml``, typed and validated; each section stands in the room that reads it."""

import copy
import re
from collections.abc import Mapping
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
from atp.models.config import NetworkConfig
from atp.registry.settings import RegisterSettings
from atp.runs import ALIGN, DISTILL, taught
from atp.settings import EMPTY, SectionType, explain, read_yaml
from atp.training.settings import RuntimeSettings, TrainingSettings


class Params(MethodSections):
    """The whole of params.yaml: of a source model that is there (``source``, ``align``), or of a black box (``query``,
    ``distill``)."""

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
        """Whether only the source model's predictions are known."""
        return self.query is not None

    @property
    def first(self) -> Path:
        """Where the model lies that the first round begins with."""
        return DISTILL if self.black_box else ALIGN

    def network(self, space: LabelSpace) -> NetworkConfig:
        """The section ``model``, for the classes of the data and those that a given model has.

        Raises:
            InputError: a class map that does not fit.
        """
        # The answers of a black box are mapped before they are stored.
        class_map = None if self.black_box else self.data.mapped_ids()
        return self.model.model_copy(update={"num_classes": space.num_classes, "class_map": class_map})

    def adapt_settings(self) -> AdaptSettings:
        """What ``atp.adapt`` takes to do what the stages do.

        Raises:
            InputError: the stages form another graph than Algorithm 1, which ``adapt`` follows.
        """
        rounds = {f"r{number:02}": Path("runs/teach") / f"r{number:02}" for number in range(1, len(self.rounds) + 1)}
        chain = [(key, entry.model) for key, entry in self.rounds.items()]
        if self.black_box or [*chain, ("split", self.split.model)] != list(
            zip([*rounds, "split"], [self.first, *rounds.values()], strict=True)
        ):
            raise InputError(
                "params.yaml: adapt follows Algorithm 1: a source model, rounds r01, r02, ... that each start from the "
                "one before, and split.model from the last of them"
            )
        return AdaptSettings(
            size=self.data.size,
            crop=self.data.crop,
            seed=self.training.seed,
            align=self.align,
            rounds=len(self.rounds),
            dump=self.dump,
            teach=self.teach,
            easy_ratio=self.split.easy_ratio,
            propagate=self.propagate,
        )

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
            made.append(taught(key))
        if self.split.model not in made:
            raise ValueError(f"split.model is {self.split.model}; it must be one of {', '.join(map(str, made))}")
        return self


def needed(section: SectionType | None, name: str) -> SectionType:
    """A section that this pipeline may not have, where a stage needs it.

    Raises:
        InputError: it has not.
    """
    if section is None:
        raise InputError(f"params.yaml: {name}: missing; the stage {name} is of the other pipeline, or add it")
    return section


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
        raise InputError(f"{path}: {explain(error, Params)}") from error
    if params.align and params.align.baseline:
        chosen(params.align, f"{path}: align.baseline")
    return params


def read_params(path: Path, overrides: Mapping[str, Any] = EMPTY) -> dict[str, Any]:
    """params.yaml as it stands, unchecked, with some entries replaced."""
    tree = read_yaml(path)
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
