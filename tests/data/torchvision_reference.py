"""Write ``torchvision_reference.npz``: what torchvision makes of photographs, for the test of our transforms.

    python tests/data/torchvision_reference.py SAMPLE_IMAGES

SAMPLE_IMAGES: the folder of scikit-learn's two photographs, ``sklearn/datasets/images``. Needs torch and torchvision.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.models import get_model_weights, list_models
from torchvision.transforms import InterpolationMode, v2

# Photograph, region of it (left, top, right, bottom), resize size, crop size, interpolation. Sides odd and even, long
# and short; images that shrink and that grow.
EVALUATIONS = (
    ("china.jpg", (0, 0, 640, 427), 256, 224, "bilinear"),
    ("flower.jpg", (0, 0, 640, 427), 256, 224, "bicubic"),
    ("china.jpg", (11, 7, 612, 408), 73, 64, "bilinear"),
    ("flower.jpg", (100, 0, 401, 427), 72, 63, "bicubic"),
    ("china.jpg", (200, 100, 250, 137), 73, 64, "bilinear"),
    ("china.jpg", (200, 100, 237, 150), 64, 64, "bicubic"),
)
# Photograph, region, size, interpolation.
CROPS = (
    ("flower.jpg", (131, 57, 500, 333), 64, "bilinear"),
    ("flower.jpg", (131, 57, 200, 99), 64, "bicubic"),
)


def main() -> None:
    """Write the file beside this one."""
    folder = Path(sys.argv[1])
    arrays = {}
    for number, (name, region, resize, crop, interpolation) in enumerate(EVALUATIONS):
        transform = v2.Compose([v2.Resize(resize, InterpolationMode(interpolation)), v2.CenterCrop(crop)])
        with Image.open(folder / name) as image:
            pixels = np.asarray(transform(image.convert("RGB").crop(region)))
        # Every second pixel of the large ones is enough.
        arrays[f"evaluation{number}"] = pixels[::2, ::2] if crop > 100 else pixels
    for number, (name, (left, top, right, bottom), size, interpolation) in enumerate(CROPS):
        with Image.open(folder / name) as image:
            pixels = v2.functional.resized_crop(
                image.convert("RGB"),
                top,
                left,
                bottom - top,
                right - left,
                [size, size],
                InterpolationMode(interpolation),
            )
        arrays[f"crop{number}"] = np.asarray(pixels)
    presets = {}
    for model in list_models(module=sys.modules["torchvision.models"]):
        for weights in get_model_weights(model):
            preset = weights.transforms()
            presets[f"{model} {weights.name}"] = [
                preset.resize_size[0],
                preset.crop_size[0],
                preset.interpolation.value,
                list(preset.mean),
                list(preset.std),
            ]
    cases = {"evaluations": EVALUATIONS, "crops": CROPS, "presets": presets}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), cases=json.dumps(cases), **arrays)


if __name__ == "__main__":
    main()
