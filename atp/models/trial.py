"""What a network of the user's own shows when it is run once: where its scores are made, and at which stride."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from atp.models.own import as_scores


@dataclass(frozen=True)
class Part:
    """A submodule, as something to freeze.

    Attributes:
        name: dotted; empty for the whole.
        tensors: parameters and buffers.
        parameters: single numbers that learn.
    """

    name: str
    tensors: int
    parameters: int


def part(model: nn.Module, name: str = "") -> Part:
    """The submodule ``name`` in figures."""
    module = model.get_submodule(name)
    return Part(name, len(module.state_dict()), sum(each.numel() for each in module.parameters()))


def classifiers(model: nn.Module, images: Tensor, num_scores: int, name: str) -> list[Part]:
    """Submodules that could be the classifier: the smallest that makes all of the scores, then those around it.

    A layer makes scores if it has one output a class, and each class's score depends on that one alone. Auxiliary
    classifiers make none, as no score depends on them; neither does a layer within that happens to be as wide.

    Args:
        images: normalised, (N, 3, H, W).
        num_scores: classes that the network tells apart.
        name: of its factory, for messages.

    Returns:
        None of them where there are no such layers, or no one submodule holds all.

    Raises:
        InputError: the network returns something else than scores.
    """
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or not output.requires_grad:
                return
            if num_scores in (output.shape[1:2] + output.shape[-1:]):
                outputs[path] = output

        return hook

    layers = [
        (path, module)
        for path, module in model.named_modules()
        if path and any(True for _ in module.parameters(recurse=False))
    ]
    handles = [module.register_forward_hook(keep(path)) for path, module in layers]
    try:
        # Of an image that has a gradient everything has one, also what the factory froze; not what it computes without.
        with torch.enable_grad():
            scores = as_scores(model.eval()(images.clone().requires_grad_()), name, num_scores)
            if not outputs or not scores.requires_grad:
                return []
            first = scores[:, 0].sum()
            gradients = torch.autograd.grad(first, list(outputs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    makers = [path for path, slope in zip(outputs, gradients, strict=True) if _first_alone(slope, num_scores)]
    held = _common(makers)
    parts = [part(model, ".".join(held[:length])) for length in range(len(held), 0, -1)]
    # Of two that hold the same the outer one has the name that people know.
    return [one for one, outer in pairwise(parts) if not _same(one, outer)] + parts[-1:]


def _same(one: Part, other: Part) -> bool:
    return (one.tensors, one.parameters) == (other.tensors, other.parameters)


def _first_alone(gradient: Tensor | None, num_scores: int) -> bool:
    """Whether the first class's score has a gradient with respect to a layer's first output, and to no other."""
    if gradient is None:
        return False
    for dim in {1, gradient.ndim - 1}:
        if gradient.shape[dim] == num_scores:
            touched = gradient.movedim(dim, 0).flatten(1).ne(0).any(1)
            if bool(touched[0]) and not bool(touched[1:].any()):
                return True
    return False


def _common(names: list[str]) -> list[str]:
    """The parts that all dotted names begin with."""
    common = names[0].split(".") if names else []
    for name in names:
        parts = name.split(".")
        while common != parts[: len(common)]:
            common.pop()
    return common


@torch.no_grad()
def num_scores(model: nn.Module, images: Tensor, name: str) -> int:
    """How many classes a network tells apart, in evaluation mode.

    Raises:
        InputError: the network returns something else than scores.
    """
    return as_scores(model.eval()(images), name, None).shape[1]


@torch.no_grad()
def scores_size(model: nn.Module, size: tuple[int, int], num_scores: int, name: str) -> tuple[int, int]:
    """Height and width of the scores for an image of that height and width, in evaluation mode.

    Raises:
        InputError: the network returns something else than scores.
        Exception: whatever the network itself raises.
    """
    scores = as_scores(model.eval()(torch.zeros(1, 3, *size)), name, num_scores)
    return scores.shape[-2], scores.shape[-1]
