"""Data that DVC brings in: cells find them in its cache alone."""

import logging
from pathlib import Path

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
