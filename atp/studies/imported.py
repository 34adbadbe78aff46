"""Checks that the data are in git or DVC's cache, since DVC's working copies for cells contain nothing else."""

import logging
from collections.abc import Iterator
from pathlib import Path

from atp.errors import InputError
from atp.params import Params
from atp.selection.repository import open_repository
from atp.studies.definitions import HeldOut

logger = logging.getLogger(__name__)


def bring_in() -> None:
    """Run the equivalent of ``dvc repro data.dvc`` if the data or their copies in DVC's cache are missing.

    Raises:
        InputError: DVC fails, with its reason.
    """
    with open_repository() as (repo, _):
        for path in sorted(Path().glob("?*.dvc")):
            outs = [out for stage in repo.stage.load_all(str(path)) for out in stage.outs if out.use_cache]
            if any(not out.exists or out.changed_cache() for out in outs):
                logger.info("%s: not in DVC's cache; running dvc repro %s", ", ".join(map(str, outs)), path)
                # Only failures matter, and DVC raises those.
                logging.getLogger("dvc").setLevel(logging.CRITICAL)
                repo.reproduce(targets=[str(path)])


def check_found(params: Params, on: HeldOut = HeldOut.TEST) -> None:
    """Report files missing in DVC's working copies before cells fail because of them.

    Args:
        params: a study's, with the images that it measures on as test images.
        on: name of these images in params.yaml.

    Raises:
        InputError: a folder of the section ``data`` is in neither DVC nor git, or a file below ``atp/`` is not in git.
    """
    with open_repository() as (repo, _):
        code = [path for path in repo.scm.untracked_files() if path.startswith("atp/")]
        if code:
            raise InputError(f"{code[0]}: not in git, so missing in the studies' cells; git add it")
        outs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]
        for name, path in _data(params, on):
            known = any(path.absolute().is_relative_to(out) for out in outs)
            if path.is_absolute() or known or repo.scm.is_tracked(str(path)):
                continue
            raise InputError(
                f"params.yaml: data.{name}: {path} is neither in DVC nor in git, so missing in the studies' cells; "
                f"set its full path, {path.absolute()}, or dvc add its folder"
            )


def _data(params: Params, on: HeldOut) -> Iterator[tuple[str, Path]]:
    data = params.data
    yield "source.root", data.source.root
    for name, part in (("target", data.target), (on, data.test)):
        yield f"{name}.images", part.images
        if part.labels is not None:
            yield f"{name}.labels", part.labels
