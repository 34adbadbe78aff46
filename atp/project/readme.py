"""The README.md of a project."""

import shlex
from collections.abc import Mapping
from typing import Any

TEXT = """\
# {name}

A segmentation model adapted by ATP to the images in `data/target`, without the data it was trained on. Made by:

```sh
{command}
```

## What to type

```sh
dvc repro                # adapt: runs what is out of date; after an interruption it goes on where it stopped
atp report               # prints the results and the path of the page with pictures
atp predict IMAGES OUT   # predicts other images with the adapted model
atp export adapted.pth   # writes the adapted weights for use without ATP
atp doctor               # checks data, parameters and model, if something is wrong or was changed
```

## What is where

| Path | What it is |
|---|---|
| `params.yaml` | all settings; after a change, `dvc repro` runs the stages that it affects |
| `dvc.yaml`, `dvc.lock` | the pipeline, and what it was last run with |
| `data/` | the source model and the images, in DVC (`data.dvc`); images added here are noticed by `dvc repro` |
| `runs/` | the result of each stage; `runs/report/index.html` is the page to look at |
| `masks/`, `overlays/` | from `atp adapt`: class ids of each image as PNG, and the images overlaid with them |
| `mlflow.db` | runs, metrics and registered models: `python -m flows.ui` shows them |
| `origin.json` | what this project was made from |
{shown}"""

SHOWN = """
No test images were given: `data/test` holds copies of some target images, to show what the models predict. Adaptation
sees these images, so figures on them are not of held-out images.
"""


def readme(name: str, options: Mapping[str, Any], *, held_out: bool) -> str:
    """The text of a project's README.md.

    Args:
        name: of the project.
        options: with which it was made, see ``Request.as_json``.
        held_out: there are test images that adaptation does not see.
    """
    words = [f"atp init {shlex.quote(name)}"]
    for option, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words.append(f"--{option}" if each is True else f"--{option} {shlex.quote(str(each))}")
    return TEXT.format(name=name, command=" \\\n  ".join(words), shown="" if held_out else SHOWN)
