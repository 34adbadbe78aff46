"""Every stage's promise, on a tiny project, each stage a process of its own as under DVC."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atp import load_model, predict
from atp.data.folder import list_samples
from atp.data.reading import Reading
from atp.data.tensors import read_image
from atp.evaluation.evidence.measure import measure
from atp.files import digest
from atp.losses.entropy import mean_entropy
from atp.models.checkpoint import load_checkpoint
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.prediction import Predictor
from atp.training.runtime import runtime_of
from tests import warm
from tests.stages.launch import ORDER, RunStage, give_curious_network, killed_again_and_again, set_params

ROOT = Path(__file__).parents[2]
ADAPTATION = ORDER[1:-1]
WINDOW = (20, 16)


def state(project: Path, folder: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(project / "runs" / folder / "model.safetensors").state


def results(project: Path) -> dict[str, bytes]:
    """Every result file's bytes."""
    return {
        str(path.relative_to(project)): path.read_bytes() for path in (project / "runs").rglob("*") if path.is_file()
    }


def test_align_leaves_the_classifier_alone_to_the_last_bit(adapted: Path) -> None:
    before, after = state(adapted, "source"), state(adapted, "align")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("classifier") or "num_batches" in name, name


def test_every_model_states_the_size_at_which_it_was_trained(adapted: Path) -> None:
    for stage in ("source", "align", "teach/r01", "teach/r02", "propagate"):
        assert load_checkpoint(adapted / "runs" / stage / "model.safetensors").reading == Reading((32, 24)), stage


def test_predict_and_evaluate_give_the_same_masks(adapted: Path) -> None:
    images, threads = adapted / "data/test/images", torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, ids in predict(load_model(adapted / "runs/propagate"), images, device="cpu"):
            with Image.open(adapted / f"runs/evaluate/predictions/propagate/{name}.png") as mask:
                assert np.array_equal(np.array(mask), ids)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sliding(template: Path, tmp_path_factory: pytest.TempPathFactory, run_stage: RunStage) -> Path:
    """The tiny project with windows, and a size of the source's own, as far as the first labels."""
    project = Path(shutil.copytree(template, tmp_path_factory.mktemp("sliding") / "project"))
    set_params(project, "data", source={"root": "data/source", "size": [24, 16]}, window=list(WINDOW))
    for stage in ("source", "align"):
        set_params(project, stage, epochs=1)
    for stage, *arguments in (("source",), ("align",), ("dump", "--round", "r01")):
        ended = run_stage(project, stage, *arguments)
        assert ended.code == 0, ended.output
    return project


def test_the_source_model_has_a_size_of_its_own_and_windows_are_the_targets(sliding: Path) -> None:
    source, aligned = (load_checkpoint(sliding / f"runs/{name}/model.safetensors") for name in ("source", "align"))
    assert (source.reading, aligned.reading) == (Reading((24, 16)), Reading((32, 24), WINDOW))


def test_labels_and_evidence_are_of_windows(sliding: Path) -> None:
    """The prediction of whole images would be another."""
    samples, network = list_samples(sliding / "data/target/images"), load_model(sliding / "runs/align")
    runtime = runtime_of("fp32", torch.device("cpu"))
    stored = PseudoLabelStore(sliding / "runs/dump/r01").entropies
    evidence = json.loads((sliding / "runs/align/evidence.json").read_text())
    for window, agrees in ((WINDOW, True), (None, False)):
        predictor = Predictor([(network, 1.0)], runtime, flip=True, scales=(1.0, 1.25), window=window)
        found = [float(mean_entropy(predictor.probabilities(read_image(s.image)[None]))[0]) for s in samples]
        assert (found == pytest.approx([stored[sample.name] for sample in samples], abs=1e-6)) is agrees
        measured = measure(network, samples, (32, 24), runtime, window=window)
        assert (measured.entropy == pytest.approx(evidence["after"]["entropy"], abs=2e-6)) is agrees


def test_evaluation_is_of_windows(adapted: Path, project: Path, run_stage: RunStage) -> None:
    shutil.copytree(adapted / "runs", project / "runs")
    set_params(project, "data", window=list(WINDOW))
    ended = run_stage(project, "evaluate")
    assert ended.code == 0, ended.output
    ended = run_stage(project, "measure", "--model", "runs/propagate")
    assert ended.code == 0, ended.output
    network = load_model(project / "runs/propagate")
    network.reading = Reading((32, 24), WINDOW)
    changed = False
    for name, ids in predict(network, project / "data/test/images", device="cpu"):
        for folder in ("runs/evaluate/predictions/propagate", "runs/measure/predictions"):
            with Image.open(project / folder / f"{name}.png") as mask:
                assert np.array_equal(np.array(mask), ids), folder
        with Image.open(adapted / f"runs/evaluate/predictions/propagate/{name}.png") as mask:
            changed = changed or not np.array_equal(np.array(mask), ids)
    assert changed, "else windows would not matter"
    now, before = (json.loads((p / "runs/evaluate/metrics.json").read_text())["entropy"] for p in (project, adapted))
    assert [name for name in before if now[name] == before[name]] == []


def test_the_source_model_learned_its_classes(adapted: Path) -> None:
    losses = [float(line.split(",")[1]) for line in (adapted / "runs/source/history.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.7 * losses[0]


def test_dumped_labels_are_for_every_target_image(adapted: Path) -> None:
    for key in ("r01", "r02"):
        store = PseudoLabelStore(adapted / "runs/dump" / key)
        assert store.names == tuple(f"{index:02}" for index in range(8))
        assert 0.6 < store.table["coverage"] <= 1


def test_the_split_ranks_by_entropy(adapted: Path) -> None:
    ranking = json.loads((adapted / "runs/split/ranking.json").read_text())
    assert len(ranking["easy"]) == len(ranking["hard"]) == 4
    entropy = [ranking["entropy"][name] for name in ranking["easy"] + ranking["hard"]]
    assert entropy == sorted(entropy)


def test_metrics_have_every_model(adapted: Path) -> None:
    metrics = json.loads((adapted / "runs/evaluate/metrics.json").read_text())
    assert set(metrics["miou"]) == {"source", "align", "teach_r01", "teach", "propagate", "batchnorm_only"}
    assert all(0 <= value <= 100 for value in metrics["miou"].values())
    assert set(metrics["iou"]["teach"]) == {"sky", "road", "car"}
    means = {name: (iou["road"] + iou["car"]) / 2 for name, iou in metrics["iou"].items()}
    assert metrics["protocols"]["ground"] == pytest.approx(means, abs=0.02)
    assert metrics["validation"]["miou"].keys() == metrics["miou"].keys()
    assert metrics["validation"]["miou"] != metrics["miou"]
    assert metrics["pseudo_labels"]["r01"]["accuracy"] > 50
    with Image.open(adapted / "runs/evaluate/predictions/propagate/00.png") as mask:
        assert (mask.mode, mask.size) == ("P", (32, 24))


def test_same_seed_same_bytes_and_adaptation_needs_neither_source_data_nor_labels(
    adapted: Path, project: Path, tmp_path: Path, run_stage: RunStage
) -> None:
    """With the source data, all target labels and the held-out images out of the way while it adapts."""

    def run(stage: str, *arguments: str) -> None:
        ended = run_stage(project, stage, *arguments)
        assert ended.code == 0, ended.output

    run("source")
    hidden = {project / "data" / name: tmp_path / str(number) for number, name in enumerate(HIDDEN)}
    for folder, aside in hidden.items():
        folder.rename(aside)
    for stage, *arguments in ADAPTATION:
        run(stage, *arguments)
    for folder, aside in hidden.items():
        aside.rename(folder)
    run("evaluate")
    assert results(project) == results(adapted)


def test_the_precision_that_auto_took_is_told_and_recorded(project: Path, run_stage: RunStage) -> None:
    set_params(project, "training", precision="auto")
    ended = run_stage(project, "source")
    assert ended.code == 0, ended.output
    took = load_checkpoint(project / "runs/source/model.safetensors").made_by["precision"]
    assert took in ("bf16", "fp32")
    assert f"source: computes in {took}" in ended.output


HIDDEN = ("source", "target/labels", "test", "validation")
SEALED = [
    "data/source/images/00.png",
    "data/source/labels/00.png",
    "data/source/classes.yaml",
    "data/target/labels/00.png",
    "data/test/images/00.png",
    "data/test/labels/00.png",
    "data/validation/images/00.png",
    "data/validation/labels/00.png",
]


@pytest.fixture(scope="module")
def curious(template: Path, tmp_path_factory: pytest.TempPathFactory, run_stage: RunStage) -> dict[str, str]:
    """What each stage prints, by its name, where the network is one that tries to open files whenever it is made."""
    project = Path(shutil.copytree(template, tmp_path_factory.mktemp("curious") / "project"))
    give_curious_network(project, [*SEALED, "data/target/images/00.png"])
    for stage in ("align", "teach", "propagate"):
        set_params(project, stage, epochs=1)
    outputs = {}
    for stage, *arguments in ORDER[:-1]:
        ended = run_stage(project, stage, *arguments)
        assert ended.code == 0, ended.output
        outputs[" ".join([stage, *arguments[1:]])] = ended.output
    return outputs


@pytest.mark.parametrize("stage", [" ".join([stage, *arguments[1:]]) for stage, *arguments in ADAPTATION])
def test_adaptation_cannot_open_what_it_must_not_see(curious: dict[str, str], stage: str) -> None:
    """Even code of the user's own that tries gets nothing: the seal is on the process, not on a path."""
    lines = set(curious[stage].splitlines())
    for path in SEALED:
        assert f"refused {path}: sealed: this stage must not read source data or target labels" in lines
        assert f"opened {path}" not in lines
    assert "opened data/target/images/00.png" in lines


def test_the_source_stage_can_open_them(curious: dict[str, str]) -> None:
    """Otherwise the test above would show nothing."""
    assert {f"opened {path}" for path in SEALED} <= set(curious["source"].splitlines())


@pytest.mark.parametrize(
    ("stage", "arguments", "files"),
    [
        ("source", (), ["runs/source/model.safetensors", "runs/source/history.csv"]),
        ("align", (), ["runs/align/model.safetensors", "runs/align/evidence.json"]),
        ("dump", ("--round", "r01"), ["runs/dump/r01/table.json", "runs/dump/r01/negatives/03.npy.zst"]),
        ("teach", ("--round", "r01"), ["runs/teach/r01/model.safetensors", "runs/teach/r01/evidence.json"]),
        ("split", (), ["runs/split/ranking.json"]),
        ("propagate", (), ["runs/propagate/model.safetensors", "runs/propagate/history.csv"]),
    ],
)
def test_killed_at_any_moment_a_stage_ends_with_the_same_bits(
    adapted: Path, tmp_path: Path, stage: str, arguments: tuple[str, ...], files: list[str]
) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    killed_again_and_again(project, stage, arguments, files)


def test_another_processes_stage_is_locked(adapted: Path, run_stage: RunStage) -> None:
    with (adapted / ".atp/align.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = run_stage(adapted, "align")
    assert ended.code == 2
    assert "error: .atp/align.lock: another process runs the stage align; wait for it or end it" in ended.output


def test_a_process_forked_from_a_stage_does_not_hold_its_lock(tmp_path: Path) -> None:
    """A data loading process notices only after seconds that its stage was killed."""
    program = (
        "import os, time\n"
        "from atp.runner.process import lock\n"
        "with lock('teach'):\n"
        "    child = os.fork()\n"
        "    if not child: os.mkdir('ready'); time.sleep(60); os._exit(0)\n"
        "    while not os.path.exists('ready'): time.sleep(0.01)\n"
        "with lock('teach'): print('free')\n"
        "os.kill(child, 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "free\n", done.stderr


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second disk")
def test_states_may_be_on_another_disk(adapted: Path, tmp_path: Path, run_stage: RunStage) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    done = {name: project / "runs" / name for name in ("dump/r01", "split")}
    expected = {name: digest(path) for name, path in done.items()}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert Path(other).stat().st_dev != project.stat().st_dev
        shutil.rmtree(project / ".atp", ignore_errors=True)
        (project / ".atp").symlink_to(other)
        for name, path in done.items():
            shutil.rmtree(path)
            stage, _, round_name = name.partition("/")
            ended = run_stage(project, stage, *(("--round", round_name) if round_name else ()))
            assert ended.code == 0, ended.output
    assert {name: digest(path) for name, path in done.items()} == expected


def test_a_stage_dies_with_its_parent(adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    starter = (
        "import os, sys, time\n"
        "from tests.stages.launch import stage_process\n"
        "from pathlib import Path\n"
        "child = os.fork()\n"
        "if child == 0: stage_process(Path(sys.argv[1]), 'source', (), 0.5)\n"
        "print(child, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", starter, str(project)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    stat = Path(f"/proc/{parent.stdout.readline().strip()}/stat")
    deadline = time.monotonic() + 60
    while not (project / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    # An orphan that has ended may stay a zombie where nothing reaps it.
    while stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline, "the stage outlived its parent"
        time.sleep(0.05)


def test_changed_parameters_refuse_the_unfinished_state(adapted: Path, tmp_path: Path, run_stage: RunStage) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    (project / ".atp/state").mkdir(parents=True, exist_ok=True)
    (project / ".atp/state/align-0123456789abcdef.pt").write_bytes(b"of other parameters")
    ended = run_stage(project, "align")
    assert ended.code == 0
    assert "align: refused the unfinished state .atp/state/align-0123456789abcdef.pt" in ended.output
    assert not list((project / ".atp/state").glob("align-*"))


def run_in_two(project: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return warm.run(list(command), project, environment)


def test_two_processes_by_a_setting_train_one_model(adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    shutil.rmtree(project / "runs/align")
    set_params(project, "runtime", processes=2)
    done = run_in_two(project, "-m", "atp.stages", "align")
    assert done.returncode == 0, done.stderr
    after = state(project, "align")
    before = state(project, "source")
    assert torch.equal(after["classifier.branches.0.weight"], before["classifier.branches.0.weight"])
    assert not torch.equal(after["backbone.conv1.weight"], before["backbone.conv1.weight"])


def test_bad_input_of_two_processes_is_one_line_of_each_that_meets_it(adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    set_params(project, "runtime", processes=2, device="tpu9")
    done = run_in_two(project, "-m", "atp.stages", "align")
    assert done.returncode == 2
    assert set(done.stderr.splitlines()) == {
        "error: params.yaml: runtime.device: no such device 'tpu9'; use auto, cpu, cuda or mps"
    }


def test_two_processes_of_torchrun_dump_each_image_once(adapted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(adapted, tmp_path / "project"))
    labels = project / "runs/dump/r01"
    reference = {path.name: path.read_bytes() for path in labels.rglob("*.png")}
    shutil.rmtree(labels)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run_in_two(project, *launcher, "-m", "atp.stages.dump", "--round", "r01")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in labels.rglob("*.png")} == reference
    assert len(reference) == 8
