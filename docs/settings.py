"""Write docs/reference/settings.md from the classes of the settings: ``python docs/settings.py``.

The page is in the repository, so that it can be read without building the site; a test compares it with the classes.
"""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/settings.md"

INTRODUCTION = """\
# Settings

Every section of `params.yaml` is one of the classes below. `params.yaml` in the root of the repository has a comment on
each value, and the [presets](../explanation/paper.md#presets) have the paper's.

Settings that `params.yaml` omits have the default shown here. An unknown entry, a missing entry or a value of the wrong
type is an error with one line, and all of them are reported at once. `Share` is a number in [0, 1], `Decay` in (0, 1),
`Positive` above 0, `NonNegative` at least 0, `Count` a whole number of at least 1, `Whole` of at least 0, `Channel`
from 0 to 255, `Size` a width and a height of at least 1, as `[160, 80]` or `160x80`, and `Flag` is `true` or `false`.

This page is made from the classes' docstrings by `python docs/settings.py`.
"""

TRAINING = "Settings of all training stages"

SECTIONS = {
    "data": ("data.DataSettings", "data.SourceData", "data.MaybeLabelled", "data.ClassEntry"),
    "model": ("models/config.NetworkConfig",),
    "training": ("training.TrainingSettings",),
    "runtime": ("training.RuntimeSettings",),
    TRAINING: ("training.Optimisation", "data.Augmentation"),
    "source": ("method.SourceSettings",),
    "query": ("black_box.QuerySettings",),
    "distill": ("method.DistillSettings",),
    "align": ("method.AlignSettings",),
    "rounds": ("method.Round",),
    "dump": ("method.DumpSettings",),
    "teach": ("method.TeachSettings",),
    "split": ("method.SplitSettings",),
    "propagate": ("method.PropagateSettings",),
    "evidence": ("evaluation.EvidenceSettings",),
    "evaluate": ("evaluation.EvaluateSettings",),
    "register": ("registry.RegisterSettings",),
}
"""Classes by section; a package means its ``settings.py``."""


def page() -> str:
    parts = [INTRODUCTION]
    for section, classes in SECTIONS.items():
        parts.append(f"## {section}\n")
        if section == TRAINING:
            names = "`source`, `distill`, `align`, `teach` and `propagate`"
            parts.append(f"{names} also have the settings of `Optimisation`.\n")
        parts += [described(name) for name in classes]
    return "\n".join(parts)


def described(name: str) -> str:
    """A class and its settings, as Markdown."""
    room, _, name = name.rpartition(".")
    path = Path("atp") / (f"{room}.py" if "/" in room else f"{room}/settings.py")
    tree = ast.parse((ROOT / path).read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    text, _, attributes = (ast.get_docstring(found) or "").partition("\nAttributes:\n")
    meanings = meaning_by_name(textwrap.dedent(attributes))
    lines = [f"### {name}", "", f"In `{path}`. {markdown(text)}", ""]
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind, default = ast.unparse(node.annotation), ast.unparse(node.value) if node.value else None
            how = f"`{kind}`, " + (f"default `{unwrapped(default)}`" if default else "required")
            meaning = meanings.get(node.target.id)
            lines.append(f"- `{node.target.id}` ({how})" + (f": {meaning}" if meaning else ""))
    return "\n".join(lines) + "\n"


def unwrapped(default: str) -> str:
    """A default without the ``Field`` that hides it from DVC."""
    return default.removeprefix("Field(default=").removesuffix(")") if default.startswith("Field(") else default


def meaning_by_name(attributes: str) -> dict[str, str]:
    """The descriptions of a docstring's attributes, several of which may share one."""
    entries = re.findall(r"^(\w[\w, ]*): (.*(?:\n +.*)*)", attributes, re.MULTILINE)
    return {name: markdown(text) for names, text in entries for name in names.split(", ")}


def markdown(text: str) -> str:
    """A docstring's paragraphs, each in one line."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
    return "\n\n".join(paragraphs).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page())
