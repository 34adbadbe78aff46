"""Select the method of the align stage: the paper's own, or a baseline."""

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Protocol

from atp.method.settings import ALIGN, AlignSettings, module_named
from atp.settings import Flag, Positive, checked
from atp.training.settings import Optimisation, with_length

if TYPE_CHECKING:
    from atp.data.loading import Images, TrainingImages
    from atp.models.network import SegmentationNetwork
    from atp.training.loop import History
    from atp.training.run import Run


class BaselineSettings(Optimisation):
    """Base settings of every baseline; each baseline's module adds its own.

    Settings that a baseline defines itself default to their published values, and ``align.baseline`` overrides them;
    all others come from the section ``align``.

    Attributes:
        lr_factor: learning rate relative to align's, the ratio of the published rates, so that both scale together if
            align's is not the published 2.5e-4. Ignored if ``align.baseline.lr`` is given.
        reestimate_batchnorm: begin from BatchNorm statistics re-estimated on the target, as the baseline ``batchnorm``
            ends, so that pseudo labels and thresholds are those of this model. Ours: no publication does.
        title: name used in print.
        needs_batchnorm: whether it can only adapt networks with BatchNorm.
        trains: False for a method without a loss, which has no learning rate and no epochs.
    """

    lr_factor: Positive = 1.0
    reestimate_batchnorm: Flag = False

    title: ClassVar[str] = ""
    needs_batchnorm: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Three alternatives to the published settings for a study's search; by default lower learning rates."""
        published = cls.model_fields["lr_factor"].default
        return tuple({"lr_factor": round(factor * published, 9)} for factor in (0.3, 0.1, 0.03))


class Method(Protocol):
    """Interface of a module that ``align.method`` can name."""

    @property
    def Settings(self) -> type[Optimisation]:  # noqa: N802 - a class
        ...

    def align(
        self, network: "SegmentationNetwork", images: "TrainingImages", settings: Optimisation, run: "Run"
    ) -> "History":
        """Adapt the network in place."""
        ...


def method_named(name: str) -> Method:
    """Import the module that ``align.method`` names."""
    method: Method = import_module(module_named(name))
    return method


def chosen(section: AlignSettings, where: str = "align.baseline") -> Optimisation:
    """Settings of the method that ``align.method`` names; a baseline's own override align's.

    Args:
        where: location of the baseline's settings, for the error message.

    Raises:
        InputError: if a setting of the baseline is unknown, of the wrong type or out of range.
    """
    if section.method == ALIGN:
        return section
    kind = method_named(section.method).Settings
    # A baseline's own epochs replace align's steps as well.
    own = with_length(dict.fromkeys(kind.__annotations__, True))
    shared = {name: getattr(section, name) for name in Optimisation.model_fields if name not in own}
    settings = checked(kind, shared | with_length(section.baseline), where)
    assert isinstance(settings, BaselineSettings), f"{section.method}: its Settings must derive from BaselineSettings"
    if "lr" in section.baseline:
        return settings
    return settings.model_copy(update={"lr": settings.lr * settings.lr_factor})


def align_with(section: AlignSettings, network: "SegmentationNetwork", target: "Images", run: "Run") -> "History":
    """Adapt the network in place by the method that ``align.method`` names."""
    # Imported here, since PyTorch takes seconds and settings are checked without it.
    from atp.training.normalisation import batchnorm_layers
    from atp.training.prediction import reestimate_batchnorm

    settings = chosen(section)
    if isinstance(settings, BaselineSettings) and settings.reestimate_batchnorm:
        batchnorm_layers(network, "align.baseline.reestimate_batchnorm", "set it to false")
        reestimate_batchnorm(network, target.samples, target.size, run.runtime, target.window, target.prepared)
        run.runtime.share_buffers(network)
    return method_named(section.method).align(network, target.augmented(settings.augmentation), settings, run)
