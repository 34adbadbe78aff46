"""``atp adapt``: from a model and a folder of images to adapted masks."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from atp.doctor import examine
from atp.errors import InputError
from atp.evaluation.evidence.record import read_all
from atp.evaluation.evidence.vanished import warnings
from atp.evaluation.recommendation import read_recommendation
from atp.masks import write_predictions
from atp.params import load_params
from atp.project.make import Tell, bring_new_images, is_project, make_project, read_origin
from atp.project.request import Request, differences
from atp.report.summary import summary_table
from atp.runs import METRICS, REPORT, RUNS

CHECKED = 20
"""Number of images read per folder before the training; a damaged one later ends its stage with a line."""


def adapt(out: Path, request: Request, tell: Tell) -> None:
    """Make a project if there is none yet, run what is out of date, and predict the target images.

    Args:
        out: the project's folder.
        request: what it is made from; of an existing project, whatever is given must agree with it.
        tell: is called with a line for each step.

    Raises:
        InputError: something is missing, wrong or differs, or a stage failed.
    """
    made = not is_project(out)
    if made:
        make_project(out, request, tell)
    elif lines := differences(read_origin(out), request):
        raise InputError(
            *(f"{out}: {line}; change it in the settings in {out}, or choose another --out" for line in lines)
        )
    else:
        tell(f"{out}: goes on with this project")
        bring_new_images(out, tell)
    with chdir(out):
        errors = [finding.text for finding in examine(Path("params.yaml"), CHECKED) if finding.level == "error"]
    if errors:
        if made:
            # So that the corrected command makes another.
            shutil.rmtree(out)
        raise InputError(*errors)
    with chdir(out):
        _reproduce(out)
        params = load_params()
        verdicts = {name: told["verdict"] for name, told in read_all(RUNS, list(params.rounds)).items()}
        tell(f"\n{summary_table(json.loads(METRICS.read_text()), verdicts)}\n")
        for name, line in warnings(RUNS, list(params.rounds)).items():
            tell(f"{name}: {line}")
        best = read_recommendation(RUNS, list(params.rounds), black_box=False)
        tell(f"{best}\n")
        written, refused = write_predictions(
            params.data.target.images, Path(), str(best.folder), tell=tell, device=params.runtime.device
        )
    for line in refused:
        tell(f"warning: {line}")
    tell(
        f"masks:    {out / 'masks'} ({written}, class ids), pictures of them: {out / 'overlays'}\n"
        f"report:   {out / REPORT / 'index.html'}\n"
        f"model:    {out / best.folder}\n"
        f"next:     cd {out} && atp predict IMAGES OUT    # other images\n"
        f"          cd {out} && atp export adapted.pth    # the weights, for use without ATP\n"
        f"          change {out / 'params.yaml'}, and give the same command again"
    )


def _reproduce(out: Path) -> None:
    """Run DVC on the project in the working folder, its output on this terminal.

    Raises:
        InputError: a stage failed.
    """
    # Stages are started as `python`, which must be this one even if its environment is not activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], env={**os.environ, "PATH": path})
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # It has got the signal too, and its stage saves its state.
        process.wait()
        raise
    if code:
        raise InputError(f"{out}: a stage failed, see above; the same command goes on from there")
