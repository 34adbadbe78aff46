"""A project whose stages take no time: real git, DVC and params.yaml, and figures that follow from propagate.lr."""

import shutil
from pathlib import Path

from tests.clone import ROOT, dvc, git

PIPELINE = """
stages:
  propagate:
    cmd: python stage.py propagate
    deps: [stage.py, data]
    params: [training, propagate, evidence]
    outs: [runs/propagate]
  evaluate:
    cmd: python stage.py evaluate
    deps: [stage.py, runs/propagate]
    params: [evaluate]
    outs: [runs/evaluate]
"""

# Good up to lr 0.5, collapsed beyond; each start leaves a line in the log that ATP_TEST_LOG names.
STAGE = """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe", pure=True).load(Path("params.yaml"))
stage, lr = sys.argv[1], params["propagate"]["lr"]
print("stage", stage, lr, flush=True)
with open(os.environ["ATP_TEST_LOG"], "a") as log:
    log.write(f"{stage} {lr} {os.environ.get('DVC_EXP_NAME')} {os.environ['DVC_ROOT']}\\n")
collapsed = lr > 0.5
if stage == "propagate" and collapsed and params["evidence"]["on_collapse"] == "stop":
    sys.exit("error: propagate: collapsed: two classes of nine are left")
while Path(os.environ["ATP_TEST_LOG"]).with_name(f"hold-{stage}").exists():
    time.sleep(0.05)
out = Path("runs") / stage
out.mkdir(parents=True)
if stage == "propagate":
    figures = {"scale_iou": 0.9 if collapsed else lr, "entropy": 0.5 - lr / 2}
    tree = {"images": 4, "verdict": "collapsed" if collapsed else "improved", "why": "because", "reverted": False}
    tree |= {"source": {"scale_iou": 0.05, "entropy": 0.6}, "before": figures, "after": figures}
    (out / "evidence.json").write_text(json.dumps(tree))
else:
    (out / "metrics.json").write_text(json.dumps({"miou": {"source": 20.0, "propagate": 60 - 100 * abs(lr - 0.2)}}))
"""


def make_project(folder: Path) -> Path:
    """The project after ``dvc repro``, committed; its lr is that of the repository's params.yaml.

    Needs the environment variable ``ATP_TEST_LOG``, a path.
    """
    folder.mkdir(parents=True)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "stage.py").write_text(STAGE)
    (folder / ".gitignore").write_text("/data/\n/mydata/\n/runs/\n/.atp/\n/mlflow.db*\n")
    shutil.copy2(ROOT / "params.yaml", folder)
    # Own data as docs/how-to/own-data.md brings them in, from a folder that git does not know.
    (folder / "mydata").mkdir()
    (folder / "mydata/image.txt").write_text("pixels")
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    dvc(folder, "import-url", "-q", "mydata", "data")
    dvc(folder, "unfreeze", "-q", "data.dvc")
    dvc(folder, "repro", "-q")
    git(folder, "add", "--all")
    git(folder, "commit", "-qm", "project")
    return folder
