"""Algorithm 1: align, teach in rounds, propagate."""

import copy
from pathlib import Path

from atp.data.loading import Images
from atp.data.reading import Reading
from atp.method.choice import align_with
from atp.method.dump import dump
from atp.method.propagate import paired_images, propagate
from atp.method.settings import AdaptSettings
from atp.method.split import split
from atp.method.teach import taught_images, teach
from atp.models.network import SegmentationNetwork
from atp.pseudo_labels.store import PseudoLabelStore
from atp.training.carried import Carried
from atp.training.run import Run
from atp.training.runtime import Runtime


def adapt(
    network: SegmentationNetwork,
    target: Images,
    settings: AdaptSettings,
    runtime: Runtime,
    folder: Path,
) -> SegmentationNetwork:
    """Adapt a network to a domain with that domain's unlabelled images (Algorithm 1).

    The pipeline in dvc.yaml runs the same steps as stages, with bit-identical results.

    Args:
        network: the source model; its weights do not change.
        target: images of the new domain.
        folder: for the pseudo labels, ``dump/r01`` and so on, and ``split``; must not contain those of another call.

    Returns:
        The adapted network, in evaluation mode, with nothing frozen; it predicts at the size at which it was adapted.
    """
    source, network = network, copy.deepcopy(network)
    network.release()

    def run(name: str) -> Run:
        return Run.of(name, settings.seed, runtime)

    def hand_on() -> None:
        """Put the network into the state in which a stage would load it from a file."""
        network.release()
        runtime.share_buffers(network)

    def labels(name: str) -> PseudoLabelStore:
        """Dump the current network's pseudo labels (Eqs. 4 and 6)."""
        share = settings.dump.source_weight
        networks = [(network, 1 - share), *([(source, share)] if share > 0 else [])]
        written = folder / name.replace("@", "/")
        pending = written.with_name(f"{written.name}.pending")
        space = network.label_space
        dump(networks, target, settings.dump, space, runtime, pending=pending, folder=written, name=name)
        return PseudoLabelStore(written)

    if settings.align is not None:
        align_with(settings.align, network, target, run("align"))
        hand_on()
    carried = Carried(settings.teach.rounds_per_schedule)
    for number in range(1, settings.rounds + 1):
        images = taught_images(target, labels(f"dump@r{number:02}"), settings.teach)
        network, _ = teach(network, images, settings.teach, settings.dump, run(f"teach@r{number:02}"), carried)
        hand_on()
    if settings.propagate is not None:
        store = labels("split")
        easy, hard = split(store.entropies, settings.easy_ratio)
        pairs, weights = paired_images(target, easy, hard, store, settings.propagate)
        network, _ = propagate(network, pairs, settings.propagate, run("propagate"), weights)
        hand_on()
    network.reading, network.precision = Reading(target.size, target.window), runtime.precision
    return network.eval()
