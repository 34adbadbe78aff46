"""What cells find in the working copies that DVC makes for them: what git holds, and what DVC's cache does."""

import logging
from collections.abc import Iterator
from pathlib import Path

from atp.errors import InputError
from atp.params import Params
from atp.selection.repository import open_repository

logger = logging.getLogger(__name__)


def bring_in() -> None:
    """Do what ``dvc repro data.dvc`` does, where it was not done: data or DVC's copies of them are missing.

    Raises:
        InputError: DVC cannot, with its reason.
    """
    with open_repository() as (repo, _):
        for path in sorted(Path().glob("?*.dvc")):
            outs = [out for stage in repo.stage.load_all(str(path)) for out in stage.outs if out.use_cache]
            if any(not out.exists or out.changed_cache() for out in outs):
                logger.info("%s: not in DVC's cache; dvc repro %s brings it in", ", ".join(map(str, outs)), path)
                # Only what it cannot do is of interest, and that it raises.
                logging.getLogger("dvc").setLevel(logging.CRITICAL)
                repo.reproduce(targets=[str(path)])


def check_found(params: Params) -> None:
    """Tell what is in the project's folder but not in the working copies, before cells fail for it.

    Raises:
        InputError: a folder of the section ``data`` that neither DVC nor git has, or a file below ``atp/`` that git has
            not.
    """
    with open_repository() as (repo, _):
        code = [path for path in repo.scm.untracked_files() if path.startswith("atp/")]
        if code:
            raise InputError(f"{code[0]}: not in git, and so not in the studies' cells; git add it")
        outs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]
        for name, path in _data(params):
            known = any(path.absolute().is_relative_to(out) for out in outs)
            if path.is_absolute() or known or repo.scm.is_tracked(str(path)):
                continue
            raise InputError(
                f"params.yaml: data.{name}: {path} is neither in DVC nor in git, and so not in the studies' cells; "
                f"write its full path there, {path.absolute()}, or dvc add what it lies in"
            )


def _data(params: Params) -> Iterator[tuple[str, Path]]:
    data = params.data
    yield "source.root", data.source.root
    for name, part in (("target", data.target), ("test", data.test)):
        yield f"{name}.images", part.images
        if part.labels is not None:
            yield f"{name}.labels", part.labels
