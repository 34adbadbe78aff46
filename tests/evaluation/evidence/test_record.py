"""evidence.json: written, read, and told apart from what it is not."""

import json
from pathlib import Path

import pytest

from atp.errors import InputError
from atp.evaluation.evidence.record import Evidence, read_evidence, read_shares, write_evidence

FIGURES = {"scale_iou": 0.5, "entropy": 0.25}
EVIDENCE = Evidence(
    images=8, verdict="unclear", why="as before", reverted=False, source=FIGURES, before=FIGURES, after=FIGURES
)
SHARES = {"source": {"road": 0.75, "sky": 0.25}, "after": {"road": 0.5, "sky": 0.5}}


def test_written_and_read(tmp_path: Path) -> None:
    write_evidence(tmp_path, EVIDENCE, SHARES)
    assert (read_evidence(tmp_path), read_shares(tmp_path)) == (EVIDENCE, SHARES)


def test_what_is_missing_or_damaged_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evidence\.json: no such file; run the stage that writes it$"):
        read_evidence(tmp_path)
    (tmp_path / "evidence.json").write_text(json.dumps({**EVIDENCE, "verdict": "splendid"}))
    with pytest.raises(InputError, match=r"evidence\.json: damaged or of another version"):
        read_evidence(tmp_path)
