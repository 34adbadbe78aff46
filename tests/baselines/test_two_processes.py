"""Whatever has a teacher, trained by two processes: one network, and the same bits after an interruption."""

import os
import socket
from pathlib import Path
from typing import Any

import torch

from atp.data.folder import Sample
from atp.data.loading import Labels, PairedImages, TrainingImages
from atp.data.settings import Augmentation
from atp.method.choice import chosen, method_named
from atp.method.propagate import propagate
from atp.method.settings import AlignSettings, PropagateSettings
from atp.models.network import NetworkConfig, SegmentationNetwork, build_network
from atp.runner.resume import ResumeFile
from atp.training.loop import Training
from atp.training.run import Run
from atp.training.runtime import open_runtime
from atp.training.settings import RuntimeSettings, TrainingSettings
from tests.stages.launch import forkserver

BASELINES: dict[str, dict[str, Any]] = {
    "cotta": {"ema": 0.5, "scales": [1.0, 1.5]},
    "dt_st": {"ema": 0.5, "first_check": 3, "check_every": 1, "update_after": 3},
    "mic": {"ema": 0.5, "confidence": 0.3},
    "ubna": {"batches": 4, "batch_size": 2},
}


class KillError(Exception):
    """Stands for kill -9 between two steps."""


def left_half(sample: Sample) -> Labels:
    ids = torch.full((24, 24), 2, dtype=torch.uint8)
    ids[:, :12] = 1
    return Labels(ids)


PROPAGATE = ("propagate", "propagate without average")


def train(name: str, network: SegmentationNetwork, images: TrainingImages, job: Run) -> SegmentationNetwork:
    """Train by a baseline or propagate; returns what is handed on."""
    if name in PROPAGATE:
        labelled = TrainingImages(images.samples, Augmentation(), labels=left_half)
        pairs = PairedImages(labelled, images)
        ema, hand_on = (0.5, "ema") if name == "propagate" else (None, "student")
        given = {"epochs": 2, "batch_size": 2, "lr": 0.02, "confidence": 0.3, "ema": ema, "hand_on": hand_on}
        return propagate(network, pairs, PropagateSettings.model_validate(given), job)[0]
    method = f"baselines/{name}"
    section = AlignSettings(epochs=2, batch_size=2, lr=0.02, method=method, baseline=BASELINES[name])
    method_named(method).align(network, images, chosen(section), job)
    return network


def one_of_two(rank: int, port: int, images: TrainingImages, out: Path) -> None:
    """Train each undisturbed, and then interrupted and continued; as PyTorch's launcher starts a script."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    step, steps = Training._step, 0

    def killed(self: Training[Any], *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KillError
        return step(self, *args)

    with open_runtime(TrainingSettings(), RuntimeSettings(device="cpu", threads=1)) as runtime:
        for name in (*BASELINES, *PROPAGATE):
            for part in ("undisturbed", "killed", "continued"):
                torch.manual_seed(0)
                network = build_network(NetworkConfig(backbone="resnet_small", output_stride=8, num_classes=3))
                resume = None if part == "undisturbed" else ResumeFile(out / f"{name}.pt", "fingerprint", 0.0)
                steps = 0
                Training._step = killed if part == "killed" else step  # type: ignore[method-assign]
                try:
                    job = Run("align", 7, runtime, resume)
                    network = train(name, network, images, job)
                except KillError:
                    continue
                finally:
                    runtime.barrier()
                # As after a stage, since each process has its own statistics of the last batch.
                runtime.share_buffers(network)
                torch.save(network.state_dict(), out / f"{name}-{part}-{rank}.pth")


def test_two_processes_train_one_network_also_after_an_interruption(noise: TrainingImages, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = forkserver()
    processes = [context.Process(target=one_of_two, args=(rank, port, noise, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for name in (*BASELINES, *PROPAGATE):
        assert (tmp_path / f"{name}.pt").exists() == (name != "ubna"), "without training, there is nothing to save"
        states = [
            torch.load(tmp_path / f"{name}-{part}-{rank}.pth", weights_only=True)
            for part in ("undisturbed", "continued")
            for rank in (0, 1)
        ]
        for key, value in states[0].items():
            assert all(torch.equal(value, state[key]) for state in states[1:]), (name, key)
