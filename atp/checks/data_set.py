"""Check of an unpacked published data set."""

from pathlib import Path

from atp.checks.finding import Finding
from atp.datasets.published import list_pairs, missing, named
from atp.errors import InputError


def examine_data_set(name: str, root: Path) -> list[Finding]:
    """Check that a data set is complete and has its published layout; reads no image.

    Raises:
        InputError: no data set of that name.
    """
    data_set = named(name)
    lines = missing(data_set, root, data_set.parts)
    if lines:
        return [Finding("error", line) for line in lines]
    findings = []
    # Cityscapes' training images serve both as source and as target.
    for part, split in {part: split for split, part in data_set.parts.items()}.items():
        try:
            count = len(list_pairs(data_set, root, split))
        except InputError as error:
            findings.append(Finding("error", str(error)))
            continue
        text = f"{root / part.at(root).images}: {count} of the {part.count} images published, " + (
            "each with its label" if part.labels else "without labels"
        )
        findings.append(Finding("ok" if count == part.count else "warning", text))
    return findings
