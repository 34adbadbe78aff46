"""The registered model's code; MLflow copies this file into the model and runs it to load one, so nothing is pickled.

Needs of this package only what ``atp.registry.package`` puts beside it.
"""

from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from torch import Tensor

from atp.models.checkpoint import network_from_checkpoint


class AdaptedModel(PythonModel):
    """Images to label maps.

    Attributes:
        network: on a GPU where there is one.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights that lie beside this file."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, _ = network_from_checkpoint(Path(context.artifacts["model"]))
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    # The plain array as a hint: MLflow takes any other for the schema of a row, and warns where there is none.
    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> NDArray[np.uint8]:
        """The most probable class of every pixel.

        Args:
            model_input: RGB images, uint8, (N, H, W, 3), any H and W.

        Returns:
            Class ids, uint8, (N, H, W).
        """
        images = torch.from_numpy(np.ascontiguousarray(model_input)).permute(0, 3, 1, 2)
        # One by one: memory does not grow with how many are given.
        maps = [self._labels(image[None]) for image in images]
        return torch.cat(maps).numpy() if maps else np.zeros(model_input.shape[:3], np.uint8)

    @torch.inference_mode()
    def _labels(self, images: Tensor) -> Tensor:
        """uint8, (1, 3, H, W), to uint8, (1, H, W)."""
        images = images.to(self.device, memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits.argmax(1).to("cpu", torch.uint8)


mlflow.models.set_model(AdaptedModel())
