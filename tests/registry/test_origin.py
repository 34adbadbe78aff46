"""What a version's tags say about where it comes from."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from atp.errors import InputError
from atp.files import digest
from atp.params import load_params
from atp.registry.origin import identify, lock_digest, origin_tags


def test_tags_answer_which_data_parameters_code_and_source_model(small_project: Path) -> None:
    tags = origin_tags(identify(load_params()))
    assert tags["atp.source_model"] == f"sha256:{digest(Path('runs/source/model.safetensors'))}"
    assert tags["atp.adapted_model"] == f"sha256:{digest(Path('runs/propagate/model.safetensors'))}"
    assert tags["atp.data"] == f"sha256:{digest(Path('data'))}"
    assert (tags["atp.miou_source"], tags["atp.miou_propagate"]) == ("40.5", "50.25")
    assert tags["atp.git_commit"] == tags["atp.git_dirty"] == "unknown"
    assert tags["atp.dvc_lock"] == "unknown"


def test_with_dvc_the_data_has_dvcs_digest(small_project: Path) -> None:
    Path("data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n  path: data\n")
    assert identify(load_params()).data == "md5:0123abcd.dir"


@pytest.mark.parametrize("imported", [False, True])
def test_images_that_are_linked_from_elsewhere_count(small_project: Path, tmp_path: Path, imported: bool) -> None:
    if imported:
        Path("data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n  path: data\n")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"one")
    params = load_params(overrides={"data.target": {"images": str(photos), "labels": None}})
    first = identify(params).data
    (photos / "a.png").write_bytes(b"two")
    second = identify(params).data
    Path("data/more.png").write_bytes(b"x")
    assert len({first, second, identify(params).data}) == (2 if imported else 3), "DVC has what it has imported"


def test_git_commit_and_whether_the_tree_was_clean(small_project: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def dirty() -> str:
        return origin_tags(identify(load_params()))["atp.git_dirty"]

    Path("dvc.lock").write_text("stages: {}\n")
    git("init", "--quiet")
    git("add", "params.yaml", "dvc.lock")
    git("commit", "--quiet", "--message", "x")
    tags = origin_tags(identify(load_params()))
    assert tags["atp.git_commit"] == git("rev-parse", "HEAD")
    assert dirty() == "false", "untracked files are results"
    Path("dvc.lock").write_text("stages: {align: {cmd: x}}\n")
    assert dirty() == "false", "every run changes it, and it has a digest of its own"
    with Path("params.yaml").open("a") as file:
        file.write("# changed\n")
    assert dirty() == "true"


def test_without_labels_there_is_no_miou(small_project: Path) -> None:
    Path("runs/evaluate/metrics.json").write_text(json.dumps({"miou": {}}))
    assert not [name for name in origin_tags(identify(load_params())) if "miou" in name]


def test_the_locks_digest_outlives_registers_own_entry(small_project: Path) -> None:
    Path("dvc.lock").write_text("stages:\n  align: {cmd: x}\n")
    before = lock_digest()
    Path("dvc.lock").write_text("stages:\n  align:\n    cmd: x\n  register: {cmd: y}\n")
    assert lock_digest() == before
    Path("dvc.lock").write_text("stages:\n  align: {cmd: z}\n")
    assert lock_digest() != before


def change_params(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new))


def test_what_changes_the_fingerprint(small_project: Path) -> None:
    seen = {identify(load_params()).fingerprint}
    change_params("epochs: 4", "epochs: 5")
    seen.add(identify(load_params()).fingerprint)
    Path("data/target.png").write_bytes(b"x")
    seen.add(identify(load_params()).fingerprint)
    shutil.copyfile("runs/source/model.safetensors", "runs/propagate/model.safetensors")
    seen.add(identify(load_params()).fingerprint)
    assert len(seen) == 4


def test_what_does_not(small_project: Path) -> None:
    before = identify(load_params()).fingerprint
    change_params("alias: candidate", "alias: other")
    change_params("promote: auto", "promote: never")
    change_params("device: auto", "device: cpu")
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# a comment\n")
    Path("runs/evaluate/metrics.json").unlink()
    Path("dvc.lock").write_text("stages: {}\n")
    assert identify(load_params()).fingerprint == before


def test_the_fingerprint_is_worked_by_hand(small_project: Path) -> None:
    identity = identify(load_params())
    names = ("registry/model", "registry/images", "registry/guard", "training/prediction")
    code = [digest(Path(__file__).parents[2] / f"atp/{name}.py") for name in names]
    text = "\n".join([identity.model, identity.data, identity.params, *code])
    assert identity.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_without_an_adapted_model(small_project: Path) -> None:
    Path("runs/propagate/model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"^runs/propagate/model\.safetensors: no such file; run .*dvc repro propagate$"
    ):
        identify(load_params())


def test_of_a_black_box_the_answers_count_and_not_how_they_were_asked_for(
    small_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Path("runs/query/target/table.json")
    answers.parent.mkdir(parents=True)
    answers.write_text("{}")
    params = Path(__file__).parents[2] / "black_box/params.yaml"
    parts = {f"data.{name}": {"images": f"data/{name}/images", "labels": None} for name in ("target", "test")}
    own = {"data.root": "data", **parts, "data.validation": None}
    one, patient, other = (
        identify(load_params(params, {**own, **changes}))
        for changes in ({}, {"query.concurrency": 1}, {"distill.lr": 0.5})
    )
    tags = origin_tags(one)
    assert tags["atp.source_answers"] == f"sha256:{digest(answers.parent)}"
    assert "atp.source_model" not in tags
    assert one.fingerprint == patient.fingerprint != other.fingerprint
