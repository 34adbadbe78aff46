"""Inspection of the user's own network by a trial run: its classifier, number of classes and stride."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from atp.models.own import as_queries, as_scores


@dataclass(frozen=True)
class Part:
    """A submodule that could be frozen.

    Attributes:
        name: dotted name; empty for the whole network.
        tensors: number of parameter and buffer tensors.
        parameters: number of scalar parameters.
    """

    name: str
    tensors: int
    parameters: int


def part(model: nn.Module, name: str = "") -> Part:
    """Describe the submodule ``name``."""
    module = model.get_submodule(name)
    return Part(name, len(module.state_dict()), sum(each.numel() for each in module.parameters()))


def classifiers(model: nn.Module, images: Tensor, num_scores: int, name: str) -> list[Part]:
    """Find submodules that could be the classifier: the smallest that computes all logits, then those around it.

    A layer computes logits if it has one output per class, and each class's logit depends only on that output. This
    excludes auxiliary classifiers, on which no logit depends, and inner layers that happen to have as many channels.
    If the network classifies masks, the logits are those of the queries' classes.

    Args:
        images: normalised images, (N, 3, H, W).
        num_scores: number of the network's classes.
        name: name of its factory, for error messages.

    Returns:
        Empty if there are no such layers, or no single submodule contains them all.

    Raises:
        InputError: if the network does not return logits.
    """
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return
            # One more where queries have a class "no object".
            if {num_scores, num_scores + 1} & {*output.shape[1:2], *output.shape[-1:]}:
                outputs[path] = output

        return hook

    layers = [
        (path, module)
        for path, module in model.named_modules()
        if path and any(True for _ in module.parameters(recurse=False))
    ]
    handles = [module.register_forward_hook(keep(path)) for path, module in layers]
    try:
        # An image with gradient gives all activations one, even of frozen layers, except under ``no_grad``.
        with torch.enable_grad():
            output = model.eval()(images.clone().requires_grad_())
            scores, queries = as_scores(output, name, num_scores), as_queries(output)
            if not outputs or not scores.requires_grad:
                return []
            # The scores of pixels depend on all classes of a query, through their softmax.
            count = num_scores if queries is None else num_scores + 1
            first = scores[:, 0].sum() if queries is None else queries[0][..., 0].sum()
            gradients = torch.autograd.grad(first, list(outputs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    makers = [path for path, slope in zip(outputs, gradients, strict=True) if _first_alone(slope, count)]
    held = _common(makers)
    parts = [part(model, ".".join(held[:length])) for length in range(len(held), 0, -1)]
    # Of two with the same contents, the outer one has the familiar name.
    return [one for one, outer in pairwise(parts) if not _same(one, outer)] + parts[-1:]


def _same(one: Part, other: Part) -> bool:
    return (one.tensors, one.parameters) == (other.tensors, other.parameters)


def _first_alone(gradient: Tensor | None, num_scores: int) -> bool:
    """Whether the first class's logit has a gradient with respect to a layer's first output only."""
    if gradient is None:
        return False
    for dim in {1, gradient.ndim - 1}:
        if gradient.shape[dim] == num_scores:
            touched = gradient.movedim(dim, 0).flatten(1).ne(0).any(1)
            if bool(touched[0]) and not bool(touched[1:].any()):
                return True
    return False


def _common(names: list[str]) -> list[str]:
    """The common leading parts of all dotted names."""
    common = names[0].split(".") if names else []
    for name in names:
        parts = name.split(".")
        while common != parts[: len(common)]:
            common.pop()
    return common


@torch.no_grad()
def num_scores(model: nn.Module, images: Tensor, name: str) -> int:
    """Number of classes of a network, from a run in evaluation mode.

    Raises:
        InputError: if the network does not return logits.
    """
    return as_scores(model.eval()(images), name, None).shape[1]


@torch.no_grad()
def scores_size(model: nn.Module, size: tuple[int, int], num_scores: int, name: str) -> tuple[int, int]:
    """Height and width of the logits for an image of the given (height, width), in evaluation mode.

    Raises:
        InputError: if the network does not return logits.
        Exception: any exception that the network raises.
    """
    scores = as_scores(model.eval()(torch.zeros(1, 3, *size)), name, num_scores)
    return scores.shape[-2], scores.shape[-1]
