"""Write what torchvision's augmentations make of two small images, for test_augment.py.

pip install torch torchvision
python tests/data/generate_augmentations.py
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.transforms.v2 import AugMix, AutoAugment, AutoAugmentPolicy, RandAugment, TrivialAugmentWide
from torchvision.transforms.v2 import functional as F

HEIGHT, WIDTH = 24, 20


def draw_images():
    """Return uint8[2, HEIGHT, WIDTH, 3]: a smooth picture, and a dark one with noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    phases = np.array([0.0, 1.0, 2.5])
    smooth = 128 + 110 * np.sin(0.35 * x[..., None] + 0.2 * y[..., None] + phases)
    noisy = 90 + 50 * np.cos(0.5 * y[..., None] - phases) + random.normal(0, 8, (HEIGHT, WIDTH, 3))
    return np.stack([smooth, noisy]).clip(0, 255).astype(np.uint8)


def tensors(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def arrays(images):
    return images.numpy().transpose(0, 2, 3, 1)


def main():
    images = draw_images()
    both = tensors(images)
    result = {"images": images}

    affine = np.array(
        # angle, translate x and y, scale, shear x and y
        [[20, 0, 0, 1, 0, 0], [0, 3, -2, 1, 0, 0], [0, 0, 0, 1.3, 0, 0], [0, 0, 0, 1, 12, 7], [-33, 2, 1, 0.8, -9, 14]]
    )
    result["affine"] = affine
    for interpolation in ("bilinear", "nearest"):
        mode = torchvision.transforms.InterpolationMode(interpolation)
        result[f"affine_{interpolation}"] = np.stack(
            [
                arrays(F.affine(both, a, [int(tx), int(ty)], s, [sx, sy], interpolation=mode))
                for a, tx, ty, s, sx, sy in affine.tolist()
            ]
        )

    field = np.random.default_rng(1).uniform(-0.2, 0.2, (1, HEIGHT, WIDTH, 2)).astype(np.float32)
    result["displacement"] = field * np.array([WIDTH, HEIGHT], np.float32) / 2  # pixels, x and y
    result["elastic"] = arrays(F.elastic(both, torch.from_numpy(field), fill=None))

    factors = np.array([0.0, 0.4, 1.0, 1.7], np.float32)
    result["factors"] = factors
    for name, function in (
        ("brightness", F.adjust_brightness),
        ("contrast", F.adjust_contrast),
        ("saturation", F.adjust_saturation),
        ("sharpness", F.adjust_sharpness),
        ("gamma", F.adjust_gamma),
    ):
        # Image by image: a mean must not be that of both.
        result[name] = np.stack(
            [arrays(torch.stack([function(image, factor) for image in both])) for factor in factors.tolist()]
        )
    turns = np.array([-0.5, -0.13, 0.0, 0.31], np.float32)
    result["turns"] = turns
    result["hue"] = np.stack([arrays(F.adjust_hue(both, turn)) for turn in turns.tolist()])
    result["grey"] = arrays(F.rgb_to_grayscale(both, num_output_channels=3))
    result["blur"] = arrays(F.gaussian_blur(both, [7, 7], [1.2, 1.2]))

    for space, policy, bins in (
        ("auto", RandAugment(), 31),
        ("wide", TrivialAugmentWide(), 31),
        ("augmix", AugMix(), 10),
    ):
        for name, (magnitudes, _) in policy._AUGMENTATION_SPACE.items():
            values = magnitudes(bins, HEIGHT, WIDTH)
            if values is not None:
                result[f"magnitudes_{space}_{name}"] = values.numpy().astype(np.float32)

    names, strengths, outcomes = [], [], []
    policy = AutoAugment()
    fifteen = {"Identity": (lambda *_: None, False), **AutoAugment._AUGMENTATION_SPACE}
    for name, (magnitudes, signed) in fifteen.items():
        values = magnitudes(31, HEIGHT, WIDTH)
        for strength in [0.0] if values is None else [float(values[bin]) for bin in (5, 17, 30)]:
            for sign in (1, -1) if signed else (1,):
                names.append(name)
                strengths.append(sign * strength)
                outcomes.append(
                    arrays(
                        torch.stack(
                            [
                                policy._apply_image_or_video_transform(
                                    image, name, sign * strength, interpolation=policy.interpolation, fill=policy._fill
                                )
                                for image in both
                            ]
                        )
                    )
                )
    result |= {"names": np.array(names), "strengths": np.array(strengths, np.float32), "operations": np.stack(outcomes)}
    for policy_name in (AutoAugmentPolicy.CIFAR10, AutoAugmentPolicy.IMAGENET):
        rows = AutoAugment(policy_name)._policies
        result[f"policy_{policy_name.value}"] = np.array([[str(part) for part in row] for row in rows])
    path = Path(__file__).with_name("augmentations.npz")
    np.savez_compressed(path, **result)
    print(path.name, path.stat().st_size, "bytes, torchvision", torchvision.__version__)


if __name__ == "__main__":
    main()
