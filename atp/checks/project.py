"""Checks of dvc.yaml and data.dvc for what DVC would stop at or not notice."""

import re
from collections.abc import Iterator
from pathlib import Path

from atp.checks.finding import Finding
from atp.errors import first_line
from atp.params import Params, read_params, setting


def check_pipeline(params: Params, path: Path) -> Iterator[Finding]:
    """Check that params.yaml has all that dvc.yaml reads from it: DVC knows no defaults and stops at the first gap."""
    pipeline = path.with_name("dvc.yaml")
    if not pipeline.is_file():
        return
    given, defaults = read_params(path), params.model_dump(mode="json", by_alias=True)
    for name in dict.fromkeys(re.findall(r"\$\{(\w+(?:\.\w+)*)\}", pipeline.read_text())):
        # Stages of a foreach.
        if name.partition(".")[0] not in ("key", "item") and setting(given, name) is None:
            default = setting(defaults, name)
            yield Finding(
                "error",
                f"{path}: {name}: missing, and {pipeline} needs it; add it"
                + (f", {name.rpartition('.')[2]}: {default}" if default is not None else ""),
            )


def check_import(params: Params) -> Iterator[Finding]:
    """Check that ``data/`` is up to date with the origin that ``data.dvc`` imports."""
    root = params.data.root
    described = root.with_name(f"{root.name}.dvc")
    if not described.is_file():
        return
    # Slow import, about a second.
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo(str(described.parent)) as repo:
            (stage,) = repo.stage.load_file(str(described))
            if not stage.deps:
                # Made by dvc add: nothing is imported.
                return
            local = [dep for dep in stage.deps if dep.protocol == "local"]
            changes = {str(one): state for dep in local for one, state in dep.workspace_status().items()}
            touched = stage.outs[0].workspace_status().values()
    except (DvcException, SCMError, ValueError) as error:
        yield Finding("warning", f"{described}: DVC cannot read it ({first_line(error)})")
        return
    origin = next(iter(changes), "")
    if changes.get(origin) == "deleted" and not stage.frozen:
        yield Finding(
            "error",
            f"{described}: {origin}, which it imports, is missing, and dvc repro would fail; restore it, or dvc "
            f"freeze {described}",
        )
    elif changes.get(origin) == "modified":
        how = f"dvc update {described}" if stage.frozen else f"dvc repro {described}"
        yield Finding("warning", f"{root}: older than {origin}, which {described} imports; {how} imports it again")
    if "modified" in touched:
        yield Finding(
            "warning",
            f"{root}: changed since {described} imported it, and the next import overwrites it; change its origin",
        )
