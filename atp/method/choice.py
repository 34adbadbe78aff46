"""The method that takes align's place: the paper's own, or a baseline."""

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Protocol

from atp.method.settings import ALIGN, AlignSettings, module_named
from atp.settings import Positive, checked
from atp.training.settings import Optimisation

if TYPE_CHECKING:
    from atp.data.loading import TrainingImages
    from atp.models.network import SegmentationNetwork
    from atp.training.loop import History
    from atp.training.run import Run


class BaselineSettings(Optimisation):
    """What every baseline can set, beside optimiser, schedule and augmentation; its module adds its own.

    Settings that a baseline defines itself have their published values unless ``align.baseline`` says otherwise; the
    others are those of the section ``align``.

    Attributes:
        lr_factor: its learning rate in units of align's: the two published ones divided, so that both are scaled alike
            where align's is not the published 2.5e-4. Without effect where ``align.baseline.lr`` is given.
        title: its name in print.
        needs_batchnorm: whether it can adapt only networks with BatchNorm.
        trains: False of a method without a loss, which has neither a learning rate nor epochs.
    """

    lr_factor: Positive = 1.0

    title: ClassVar[str] = ""
    needs_batchnorm: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    @classmethod
    def strengths(cls) -> tuple[dict[str, float], ...]:
        """Settings to choose from beside the published ones, where a study searches: a tenth of the learning rate."""
        return ({"lr_factor": round(0.1 * cls.model_fields["lr_factor"].default, 9)},) if cls.trains else ()


class Method(Protocol):
    """A module in align's place."""

    @property
    def Settings(self) -> type[Optimisation]:  # noqa: N802 - a class
        ...

    def align(
        self, network: "SegmentationNetwork", images: "TrainingImages", settings: Optimisation, run: "Run"
    ) -> "History":
        """Adapt the network in place."""
        ...


def method_named(name: str) -> Method:
    """The module that ``align.method`` names."""
    method: Method = import_module(module_named(name))
    return method


def chosen(section: AlignSettings, where: str = "align.baseline") -> Optimisation:
    """The settings of the method that ``align.method`` names; for a baseline, its own on top of align's.

    Args:
        where: the baseline's settings stand, for the message.

    Raises:
        InputError: the baseline has no such setting, or it is of the wrong type or out of range.
    """
    if section.method == ALIGN:
        return section
    kind = method_named(section.method).Settings
    shared = {name: getattr(section, name) for name in Optimisation.model_fields if name not in kind.__annotations__}
    settings = checked(kind, shared | section.baseline, where)
    assert isinstance(settings, BaselineSettings), f"{section.method}: its Settings are BaselineSettings"
    if "lr" in section.baseline:
        return settings
    return settings.model_copy(update={"lr": settings.lr * settings.lr_factor})
