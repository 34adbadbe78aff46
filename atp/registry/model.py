"""The registered model's code; MLflow copies this file into the model and runs it on loading, so nothing is pickled.

Imports only those parts of this package that ``atp.registry.package`` packages with it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import mlflow.models
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from PIL import Image

from atp.data.reading import Native, Size, by, parse_size
from atp.errors import InputError
from atp.models.checkpoint import network_from_checkpoint
from atp.registry.images import decode_image, encode_image, encode_mask
from atp.training.prediction import predictor_of


class WrongInputError(MlflowException):
    """HTTP 400 with one sentence; to any other message MLflow's server prepends the whole input."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """The body of the server's answer."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


@dataclass(frozen=True)
class _Wanted:
    """What a request asks for in addition to the mask.

    Attributes:
        confidence: whether to return the mask's confidence.
        soft: number of most probable classes to return per pixel.
        size: size at which the model reads the images; None is its own.
    """

    confidence: bool
    soft: int
    size: Size | Native | None

    @classmethod
    def of(cls, params: dict[str, Any]) -> "_Wanted":
        soft = int(params.get("soft") or 0)
        if soft < 0:
            raise WrongInputError(f"soft is {soft}; it must be the number of classes per pixel, or 0")
        try:
            size = parse_size(str(params.get("size") or ""), "size")
        except InputError as error:
            raise WrongInputError(str(error)) from error
        return cls(bool(params.get("confidence")), soft, size)

    @property
    def names(self) -> tuple[str, ...]:
        confidence = ("confidence",) if self.confidence else ()
        return ("mask", *confidence, *(("classes", "probabilities") if self.soft else ()))


class AdaptedModel(PythonModel):
    """Images to label maps.

    Attributes:
        predictor: the model, on a GPU if available; it reads images at the size at which it was adapted.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights packaged with this file."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, self.space = network_from_checkpoint(Path(context.artifacts["model"]))
        self.reading = network.reading
        self.predictor = predictor_of(network, device, self.reading.window)
        self.limits: dict[str, int] = context.model_config
        # A server calls from many threads; processing one image at a time bounds its memory.
        self._lock = Lock()

    # Plain array as type hint: MLflow takes any other for a row's schema, and warns without a hint.
    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> Any:
        """The most probable class of every pixel.

        Args:
            model_input: RGB images, uint8, (N, H, W, 3), any H and W, resized to the size at which the model was
                adapted; or files, base64 of PNG or JPEG, (N,).
            params: ``size`` is another size at which the model reads them, ``WIDTHxHEIGHT`` or ``native``, each image's
                own. ``confidence`` adds the probability of that class, 0 to 255. ``soft: k`` adds the k most probable
                classes per pixel, most probable first, and their probabilities, 0 to 255.

        Returns:
            For arrays, class ids, uint8, (N, H, W); with confidence or soft a dictionary of ``mask``, ``confidence``,
            and ``classes`` and ``probabilities``, uint8, (N, k, H, W). For files, a list of dictionaries with the same
            keys and a base64 PNG each; the k planes of the last two are stacked vertically.

        Raises:
            WrongInputError: for any other input.
        """
        wanted = _Wanted.of(params or {})
        if model_input.dtype == np.uint8 and model_input.ndim == 4 and model_input.shape[3] == 3:
            # One by one, so that memory does not grow with the batch.
            maps = [self._maps(image, wanted) for image in model_input]
            empty = np.zeros((0, *model_input.shape[1:3]), np.uint8)
            stacked = {name: np.stack([each[name] for each in maps]) if maps else empty for name in wanted.names}
            return stacked["mask"] if wanted.names == ("mask",) else stacked
        if model_input.ndim == 1 and model_input.dtype.kind in "OU":
            return self._of_files(model_input.tolist(), wanted)
        raise WrongInputError(
            "the input must be uint8 images (N, H, W, 3), or a list of PNG or JPEG files as base64, "
            f"not {model_input.dtype} {model_input.shape}"
        )

    def _of_files(self, files: list[object], wanted: "_Wanted") -> list[dict[str, str]]:
        if len(files) > self.limits["max_images"]:
            raise WrongInputError(f"{len(files)} images in a request; this server accepts {self.limits['max_images']}")
        left = self.limits["max_pixels"]
        if isinstance(wanted.size, tuple) and wanted.size[0] * wanted.size[1] > left:
            raise WrongInputError(f"size {by(wanted.size)}: more than the {left} pixels that this server accepts")
        answers = []
        for number, file in enumerate(files):
            with self._lock:
                try:
                    image = decode_image(file, left)
                except InputError as error:
                    raise WrongInputError(f"image {number}: {error}") from error
                left -= image.shape[0] * image.shape[1]
                maps = self._maps(image, wanted)
                answer = {"mask": encode_mask(maps.pop("mask"), self.space.palette)}
                width = image.shape[1]
                answers.append(answer | {n: encode_image(values.reshape(-1, width)) for n, values in maps.items()})
        return answers

    def _maps(self, image: NDArray[np.uint8], wanted: "_Wanted") -> dict[str, NDArray[np.uint8]]:
        """uint8, (H, W, 3), to the maps of the wanted names, uint8, (H, W) or (k, H, W)."""
        try:
            reading = self.reading.changed(wanted.size)
            probabilities = self.predictor.image(Image.fromarray(np.ascontiguousarray(image)), reading.size)
        except InputError as error:
            raise WrongInputError(str(error)) from error
        maps = {"mask": probabilities.argmax(0)}
        if wanted.confidence:
            maps["confidence"] = (255 * probabilities.amax(0)).round()
        if wanted.soft:
            highest, maps["classes"] = probabilities.topk(min(wanted.soft, len(probabilities)), 0)
            maps["probabilities"] = (255 * highest).round()
        return {name: values.to("cpu", torch.uint8).numpy() for name, values in maps.items()}


mlflow.models.set_model(AdaptedModel())
