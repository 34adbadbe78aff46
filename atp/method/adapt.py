"""Algorithm 1: align, teach in rounds, propagate."""

import copy
from pathlib import Path

from atp.data.labels import LabelSpace
from atp.data.loading import Images
from atp.method.choice import chosen, method_named
from atp.method.dump import dump
from atp.method.propagate import paired_images, propagate
from atp.method.settings import AdaptSettings
from atp.method.split import split
from atp.method.teach import taught_images, teach
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.run import Run
from atp.training.runtime import Runtime


def adapt(
    network: SegmentationNetwork,
    target: Images,
    settings: AdaptSettings,
    runtime: Runtime,
    folder: Path,
    label_space: LabelSpace,
) -> SegmentationNetwork:
    """Adapt a network to a domain with that domain's unlabelled images (Algorithm 1).

    The pipeline of dvc.yaml does the same, a stage for each line, and ends with the same bits.

    Args:
        network: the source model; stays as it is.
        target: images of the new domain.
        folder: for the pseudo labels, ``dump/r01`` and so on; must not hold any of an earlier call.
        label_space: names and colours of the classes, for the palette of these labels.

    Returns:
        The adapted network, in evaluation mode, nothing frozen.
    """
    source, network = network, copy.deepcopy(network)

    def run(name: str) -> Run:
        return Run.of(name, settings.seed, runtime)

    def labels(name: str) -> PseudoLabelStore:
        """What the network of this moment labels (Eqs. 4 and 6)."""
        share = settings.dump.source_weight
        networks = [(network, 1 - share), *([(source, share)] if share > 0 else [])]
        written, pending = folder / name, folder / f"{name}.pending"
        dump(networks, target, settings.dump, label_space, runtime, pending=pending, folder=written, name=name)
        return PseudoLabelStore(written)

    aligning = chosen(settings.align)
    images = target.augmented(aligning.augmentation)
    method_named(settings.align.method).align(network, images, aligning, run("align"))
    network.release()
    for number in range(1, settings.rounds + 1):
        images = taught_images(target, labels(f"dump/r{number:02}"), settings.teach)
        network, _ = teach(
            network, images, settings.teach, settings.dump.negative_threshold, run(f"teach@r{number:02}")
        )
        network.release()
    store = labels("split")
    easy, hard = split(store.entropies, settings.easy_ratio)
    pairs, weights = paired_images(target, easy, hard, store, settings.propagate)
    network, _ = propagate(network, pairs, settings.propagate, run("propagate"), weights)
    network.release()
    return network.eval()
