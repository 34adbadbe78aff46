"""``atp doctor``: the checks of parameters, data, models and machine before training.

Each check yields findings. A check that cannot continue reports why, and the others still run.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from atp.checks.box import check_box
from atp.checks.finding import Finding
from atp.checks.images import check_colours, check_domains, check_images
from atp.checks.machine import check_machine
from atp.checks.network import check_network
from atp.checks.project import check_import, check_pipeline
from atp.checks.source_model import check_checkpoint, check_unused
from atp.errors import InputError
from atp.params import load_params
from atp.settings import check_imported


def examine(path: Path, sample: int = 0) -> list[Finding]:
    """All findings about a project.

    Args:
        path: the parameter file.
        sample: number of images to read per folder, evenly spread; 0 reads all.
    """
    try:
        params = load_params(path)
        check_imported(params.data.root)
        space = params.data.label_space()
        params.data.protocol_ids()
    except InputError as error:
        return [Finding("error", line) for line in error.lines]
    findings = [Finding("ok", f"{path}: valid; {space.num_classes} classes")]
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: check_pipeline(params, path),
        lambda: check_import(params),
        lambda: check_images(params, space, sample),
        lambda: check_domains(params),
        lambda: check_colours(params),
        lambda: check_network(params, space),
        lambda: check_checkpoint(params, space),
        lambda: check_unused(params),
        lambda: check_box(params, space, sample),
        lambda: check_machine(params, space),
    ]
    for check in checks:
        try:
            findings += check()
        except InputError as error:
            findings += [Finding("error", line) for line in error.lines]
    # Two checks may report the same file.
    return list(dict.fromkeys(findings))
