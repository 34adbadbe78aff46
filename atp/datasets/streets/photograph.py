"""What a camera makes of a painted scene: texture, haze, colour, lens and sensor."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from atp.datasets.streets.canvas import OVERSAMPLING, Camera, Canvas
from atp.datasets.streets.classes import BUILDING, ROAD, SIDEWALK, SKY
from atp.datasets.streets.style import Color, Style


def photograph(rng: Generator, canvas: Canvas, label: NDArray[np.uint8], air: Color, style: Style) -> NDArray[np.uint8]:
    """Photograph a painted scene, uint8 RGB, (H, W, 3).

    Args:
        label: class ids at the image's size, (H, W).
        air: the colour towards which haze moves everything.
    """
    image = np.asarray(canvas.rgb.reduce(OVERSAMPLING), np.float32) / 255
    depth = np.asarray(canvas.depth, np.float32)[::OVERSAMPLING, ::OVERSAMPLING]
    image = image * _texture(rng, label, depth, canvas.camera, style)[..., None]
    clear = np.exp(-rng.uniform(*style.haze) * depth).astype(np.float32)
    # The sky's own colours hold most of its haze already.
    clear = np.where(label == SKY, 0.5 + 0.5 * clear, clear)[..., None]
    image = image * clear + np.array(air, np.float32) / 255 * (1 - clear)
    return _sensor(rng, _lens(rng, image, style), style)


def _lens(rng: Generator, image: NDArray[np.float32], style: Style) -> NDArray[np.float32]:
    """Saturation, colour cast, vignette, gamma and blur; intensities in 0-1, (H, W, 3)."""
    height, width, _ = image.shape
    grey = image.mean(-1, keepdims=True)
    image = grey + np.float32(rng.uniform(*style.saturation)) * (image - grey)
    image *= (1 + style.cast * rng.uniform(-1, 1, 3)).astype(np.float32)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image *= (1 - rng.uniform(*style.vignette) * (rows**2 + columns**2) / 2).astype(np.float32)[..., None]
    image = np.clip(image, 0, 1) ** np.float32(rng.uniform(*style.gamma))
    sigma = rng.uniform(*style.blur) * height / 80
    if sigma == 0:
        return image
    blurred = Image.fromarray((image * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(blurred, np.float32) / np.float32(255)


def _sensor(rng: Generator, image: NDArray[np.float32], style: Style) -> NDArray[np.uint8]:
    """Noise, most of it common to the three channels, and rounding to bytes."""
    height, width, _ = image.shape
    luminance = rng.standard_normal((height, width, 1), dtype=np.float32)
    noise = 0.8 * luminance + 0.6 * rng.standard_normal((height, width, 3), dtype=np.float32)
    noisy = 255 * image + np.float32(rng.uniform(*style.noise)) * noise
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def _noise(rng: Generator, height: int, width: int, grain: int) -> NDArray[np.float32]:
    """Smooth noise with grains of so many pixels, about unit variance, (H, W)."""
    coarse = rng.standard_normal((height // grain + 2, width // grain + 2), dtype=np.float32)
    if grain == 1:
        return coarse[:height, :width]
    size = (coarse.shape[1] * grain, coarse.shape[0] * grain)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR))[:height, :width]
    return smooth * np.float32(1.5)


def _texture(
    rng: Generator, label: NDArray[np.uint8], depth: NDArray[np.float32], camera: Camera, style: Style
) -> NDArray[np.float32]:
    """Relative brightness of every pixel, (H, W): noise by class, courses on walls, grain fixed to the ground."""
    height, width = label.shape
    amplitudes = np.array(style.texture, np.float32)[label]
    factor = np.ones((height, width), np.float32)
    for octave, grain in enumerate((1, 3, 9)):
        factor += amplitudes[..., octave] * _noise(rng, height, width, max(1, round(grain * height / 80)))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) * OVERSAMPLING
    # Metres right and up of the camera; at far walls the courses are finer than a pixel and fade.
    across, up = (columns - camera.center) * depth / camera.focal, (rows - camera.horizon) * depth / camera.focal
    near = np.exp(-depth / 18)
    courses = np.where(np.mod(up, 0.6) < 0.3, 1, -1) * np.where(np.mod(across + up, 1.4) < 0.25, -1.0, 1.0)
    factor += np.where(label == BUILDING, style.brick * near * courses.astype(np.float32), 0)
    tile = _noise(rng, 64, 64, 2)
    grain_at = tile[np.mod(depth * 3, 64).astype(np.intp), np.mod(across * 6, 64).astype(np.intp)]
    factor += np.where((label == ROAD) | (label == SIDEWALK), style.ground_texture * near * grain_at, 0)
    return np.maximum(factor, 0.2)
