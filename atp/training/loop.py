"""The training loop of all stages; each stage supplies its objective."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from atp.data.loading import AnyBatch, TrainingOrder, TrainingSet, mix_seed, training_loader
from atp.errors import InputError
from atp.models.network import SegmentationNetwork
from atp.training.carried import Carried
from atp.training.ema import AveragedNetwork
from atp.training.optimisation import build_optimizer, build_schedule
from atp.training.progress import Progress
from atp.training.run import Resume, Run
from atp.training.settings import Optimisation

logger = logging.getLogger(__name__)

Losses = dict[str, Tensor]
"""Named scalars; ``loss`` is minimised, the others are logged."""

History = dict[str, list[float]]
"""By name, the means over the steps between two records, and the ``step`` of each record."""


@dataclass
class Training(Generic[AnyBatch]):
    """A training run and its state.

    Attributes:
        network: the network to train.
        settings: optimiser, schedule and length.
        images: augmented training images.
        job: name, seed, runtime, and the destinations of state and metrics.
        ema: moving average of the network, if the stage uses one.
        extra: module trained jointly at the classifier's learning rate, and then discarded.
        weights: sampling weights of the images.
        carried: state of earlier trainings with the same schedule, updated at the end.
        history: losses recorded so far.
    """

    network: SegmentationNetwork
    settings: Optimisation
    images: TrainingSet[AnyBatch]
    job: Run
    ema: AveragedNetwork | None = None
    extra: nn.Module | None = None
    weights: Tensor | None = None
    carried: Carried = field(default_factory=Carried)
    history: History = field(default_factory=dict)

    def run(self, objective: Callable[[nn.Module, AnyBatch], Losses]) -> History:
        """Train to the end, resuming from a saved state if there is one.

        Args:
            objective: maps the network (wrapped, with several processes) and a batch to the losses.

        Raises:
            InputError: if the loss is not finite, or the resume state belongs to another run.
        """
        runtime, settings, resume = self.job.runtime, self.settings, self.job.resume
        if settings.augmentation.scale != (1.0, 1.0) and not self.images.cropped and runtime.is_main:
            logger.warning("%s: augmentation.scale has no effect without random crops; set data.crop", self.job.name)
        saved = resume.load() if resume else None
        start = int(saved["step"]) if saved else 0
        order = TrainingOrder(
            len(self.images),
            settings.batch_size,
            settings.epochs,
            self.job.seed,
            steps=settings.steps,
            start=start,
            rank=runtime.rank,
            world_size=runtime.world_size,
            weights=self.weights,
        )
        runtime.place(self.network)
        if self.ema:
            # It may have been copied before the network moved to the device.
            runtime.place(self.ema.network)
        if settings.batchnorm == "eval":
            self.network.hold_batchnorm()
        optimizer = build_optimizer(self.network, settings)
        if self.extra:
            runtime.place(self.extra.train())
            optimizer.add_param_group(
                {"params": list(self.extra.parameters()), "lr": settings.lr * settings.classifier_lr_factor}
            )
        before, all_steps = self.carried.done * order.steps, self.carried.parts * order.steps
        if settings.warmup_steps >= all_steps and runtime.is_main:
            logger.warning(
                "%s: all %d steps are warm-up (%d), so the learning rate stays low; raise epochs or lower warmup_steps",
                *(self.job.name, all_steps, settings.warmup_steps),
            )
        schedule = build_schedule(optimizer, settings, all_steps, before)
        self.carried.restore(self.network, optimizer)
        if self.ema:
            self.ema.steps = before
        # Small gradients underflow in float16 without scaling; other types do not need it.
        scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype is torch.float16)
        parts = {"optimizer": optimizer, "schedule": schedule, "scaler": scaler}
        if saved:
            self._restore(saved, parts)
            logger.info("%s: continues at step %d of %d", self.job.name, start, order.steps)
        model: nn.Module = self.network
        if runtime.world_size > 1:
            model = DistributedDataParallel(self.network, find_unused_parameters=not self.network.uses_all)
        loader = training_loader(self.images, order, workers=runtime.workers, pin_memory=runtime.device.type == "cuda")
        model.train()
        meter = Meter()
        every = max(1, min(order.steps_per_epoch, 20))
        with Progress(self.job.name, order.steps, start, enabled=runtime.is_main) as progress:
            for step, batch in enumerate(loader, start=start + 1):
                # The objective's randomness (ClassMix, dropout) must not depend on where a run was interrupted.
                torch.manual_seed(mix_seed(self.job.seed, step, runtime.rank))
                losses = self._step(
                    model, objective, batch.to(runtime.device, runtime.memory_format), optimizer, scaler
                )
                schedule.step()
                if self.ema:
                    self.ema.update(self.network)
                meter.add(losses)
                # State is saved only at record steps, which are fixed, so that a resumed run records the same means.
                if step % every == 0 or step == order.steps:
                    self._record(step, meter.mean(), progress)
                    if resume and (resume.due() or step == order.steps):
                        self._save(resume, step, parts)
                progress.advance()
        self.carried.keep(self.network, optimizer, runtime, averaged=self.ema is not None)
        return self.history

    def _step(
        self,
        model: nn.Module,
        objective: Callable[[nn.Module, AnyBatch], Losses],
        batch: AnyBatch,
        optimizer: SGD,
        scaler: torch.amp.GradScaler,
    ) -> Losses:
        optimizer.zero_grad(set_to_none=True)
        with self.job.runtime.autocast():
            losses = objective(model, batch)
        torch.autograd.backward(scaler.scale(losses["loss"]))
        self._share_gradients()
        scaler.step(optimizer)
        scaler.update()
        return losses

    def _share_gradients(self) -> None:
        """Average the extra module's gradients over the processes, as DDP does for the network's."""
        runtime = self.job.runtime
        if self.extra and runtime.world_size > 1:
            for parameter in self.extra.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                runtime.sum(parameter.grad).div_(runtime.world_size)

    def _record(self, step: int, means: dict[str, float], progress: Progress) -> None:
        if not math.isfinite(means["loss"]):
            raise InputError(
                f"params.yaml: {self.job.name}: the loss is {means['loss']} by step {step}; "
                f"lower {self.job.name}.lr or the loss weights, or use training.precision: fp32"
            )
        for name, value in {"step": float(step), **means}.items():
            self.history.setdefault(name, []).append(value)
        progress.show(means)
        if self.job.record and self.job.runtime.is_main:
            self.job.record(step, means)

    def _save(self, resume: Resume, step: int, parts: dict[str, Any]) -> None:
        if self.job.runtime.is_main:
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"step": step, "network": self.network.state_dict(), "history": self.history}
            if self.ema:
                state["ema"] = self.ema.state_dict()
            if self.extra:
                state["extra"] = self.extra.state_dict()
            resume.save(state)

    def _restore(self, saved: dict[str, Any], parts: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.history.update(saved["history"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])
        if self.extra:
            self.extra.load_state_dict(saved["extra"])
        parts["optimizer"].load_state_dict(saved["optimizer"])
        parts["scaler"].load_state_dict(saved["scaler"])
        parts["schedule"].load_state_dict(saved["schedule"])


class Meter:
    """Running means of named scalars, summed on the device to avoid synchronising at every step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def mean(self) -> dict[str, float]:
        """Return the means since the last call and reset."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
