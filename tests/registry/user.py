"""Somebody who has the registry, but neither this project nor its package: run in a process of its own."""

import base64
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def main() -> None:
    # The registry's files are looked at by other tests, and stay as they were registered.
    sys.dont_write_bytecode = True
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
    assert importlib.util.find_spec("atp") is None
    import mlflow
    from mlflow.exceptions import MlflowException

    model = mlflow.pyfunc.load_model("models:/atp@candidate")
    answer: dict[str, object] = {}
    for height, width in ((16, 32), (45, 31)):
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        labels = model.predict(images)
        answer[f"{height}x{width}"] = [str(labels.dtype), list(labels.shape), labels.tolist()]
    both = model.predict(images, params={"confidence": True})
    answer["mask"] = both["mask"].tolist()
    answer["confidence"] = [str(both["confidence"].dtype), both["confidence"].tolist()]
    soft = model.predict(images, params={"soft": 2})
    answer["soft"] = {name: values.tolist() for name, values in soft.items()}
    try:
        model.predict(images, params={"soft": -1})
    except MlflowException as error:
        answer["negative"] = str(error)
    files = [encoded(image) for image in images]
    answer["files"] = [decoded(maps["mask"]) for maps in model.predict(np.array(files, dtype=object))]
    answer["arrays"] = labels.tolist()
    answer["none"] = list(model.predict(np.zeros((0, 8, 8, 3), np.uint8)).shape)
    for name, wrong in (("floats", np.zeros((1, 8, 8, 3))), ("grey", np.zeros((1, 8, 8), np.uint8))):
        try:
            model.predict(wrong)
        except MlflowException as error:
            answer[name] = str(error)
    example = model.input_example
    answer["example"] = [str(example.dtype), list(example.shape), [list(maps) for maps in model.predict(example)]]
    own = mlflow.pyfunc.load_model("models:/own@candidate")
    answer["own"] = own.predict(images).tolist()
    answer["nets"] = sys.modules["nets.blocks"].__file__
    answer["atp"] = sys.modules["atp"].__file__
    answer["metadata"] = model.metadata.metadata
    Path("answer.json").write_text(json.dumps(answer))


def encoded(image: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def decoded(text: str) -> list[list[int]]:
    with Image.open(io.BytesIO(base64.b64decode(text))) as file:
        return np.array(file).tolist()


if __name__ == "__main__":
    main()
