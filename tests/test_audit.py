"""`make audit` says what it found, and never that nothing was found where nothing was looked up."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
summary = runpy.run_path(str(ROOT / "docs/audit.py"))["summary"]
KNOWN = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        (
            [KNOWN, CLEAN, SKIPPED],
            (
                "pillow 1.0: PYSEC-1, mended in 1.1\n2 packages audited, 1 not known to the service, 1 vulnerabilities",
                1,
            ),
        ),
        ([CLEAN], ("1 packages audited, 0 not known to the service, 0 vulnerabilities", 0)),
        ([SKIPPED], ("nothing was audited: the vulnerability service cannot be reached from here", 0)),
    ],
)
def test_the_summary(packages: list[dict[str, object]], expected: tuple[str, int], tmp_path: Path) -> None:
    report = tmp_path / "audit.json"
    report.write_text(json.dumps({"dependencies": packages}))
    assert summary(report) == expected


def test_no_report_is_no_service(tmp_path: Path) -> None:
    assert summary(tmp_path / "audit.json")[0].startswith("nothing was audited")
