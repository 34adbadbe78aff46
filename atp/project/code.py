"""Stage ``code`` of a user's project: ``python -m atp.project.code`` writes ``runs/code.json``.

Imports nothing slow: DVC runs it every time.
"""

import json
from pathlib import Path

from atp.errors import exit_codes
from atp.files import atomic_path
from atp.project.pipeline import code_of_stages
from atp.runs import CODE
from atp.settings import read_yaml

STAGE = "code"
"""Its name in the project's dvc.yaml."""


def write_code() -> None:
    """Write the digests of the code behind each stage of the project in the working folder."""
    params = read_yaml(Path("params.yaml"), "run from the root of the project")
    digests = code_of_stages(params if isinstance(params, dict) else {}, Path())
    with atomic_path(CODE) as temporary:
        temporary.write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    with exit_codes():
        write_code()
