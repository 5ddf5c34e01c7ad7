"""Recipes: what published results were trained with, as named configs that any flag overrides.

``python -m cnnjax.training --recipes`` lists them, and ``python -m cnnjax.training NAME`` prints one.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from cnnjax.training.config import TrainConfig
from cnnjax.training.flags import ConfigError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named config, where it comes from, and what it reaches.

    Attributes:
      config: the run; its flag ``recipe`` is the recipe's name.
      source: authors, year, arXiv id and section, or the program that it is the default of.
      published: what the source reaches with it, in words; None: there is no source.
      verified: what it reached with this package, in words; None: it was not run in full.
      differs: how it differs from the source.
    """

    config: TrainConfig
    source: str
    published: str | None
    verified: str | None = None
    differs: str = "nothing known"

    @property
    def name(self) -> str:
        """What ``--recipe`` calls it."""
        return self.config.recipe

    def flags(self) -> dict[str, Any]:
        """Return the fields of the config that are not the command line's own defaults."""
        default = TrainConfig()
        fields = ((field.name, getattr(self.config, field.name)) for field in dataclasses.fields(TrainConfig))
        return {name: value for name, value in fields if name != "recipe" and value != getattr(default, name)}


def _imagenet(name: str, model: str, **fields: Any) -> TrainConfig:
    """Return a config for ImageNet, 224 pixels and bfloat16 unless ``fields`` say otherwise."""
    common: dict[str, Any] = {"dataset": "imagenet2012", "image_size": 224, "dtype": "bfloat16", "augment": ("mirror",)}
    return TrainConfig(recipe=name, model=model, **(common | fields))


_SGD: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "learning_rate": 0.1}
_CIFAR: dict[str, Any] = _SGD | {
    "dataset": "cifar10",
    "epochs": 160,
    "batch_size": 128,
    "schedule": "multistep",
    "augment": ("crop:4", "mirror"),
}
_TIMM: dict[str, Any] = {
    "batch_size": 2048,
    "optimizer": "lamb",
    "loss": "binary_cross_entropy",
    "schedule": "cosine",
    "warmup_epochs": 5,
}
# The source's rate and decay are those of 1024 images and of momentum's eventual sum, per image; biases of batch norm
# have 64 times the rate, and decay as if they had not.
_AIRBENCH_STEP = 1024 * (1 + 1 / (1 - 0.85))
_AIRBENCH: dict[str, Any] = {
    "dataset": "cifar10",
    "normalization": "model",
    "batch_size": 1024,
    "optimizer": "sgd",
    "momentum": 0.85,
    "nesterov": True,
    "decay_all": True,
    "learning_rate_scale": ("**/norm*/bias=64",),
    "weight_decay_scale": (f"**/norm*/bias={1 / 64}",),
    "loss_reduction": "sum",
    "label_smoothing": 0.2,
    "schedule": "polynomial",
    "start_factor": 0.2,
    "whitening_images": 5000,
    "frozen": ("stem/conv1/kernel",),
    "freeze_from": ("3=stem/conv1/bias",),
    "lookahead": f"5,{0.95**5:.6f},3",
    "test_time_augmentation": "mirror-shift",
}
JORDAN = "Jordan 2024, arXiv:2404.00498, and the author's program"
EPOCHS_DROP = "the last images of an epoch belong to the next batch, and are dropped there; epochs are as many steps"
WIGHTMAN = "Wightman et al. 2021, arXiv:2110.00476, table 2"
# Differences that several recipes have from their sources.
BFLOAT16 = "computes in bfloat16"
CROPS = "random resized crops of 8 to 100 % and ratio 3/4 to 4/3 instead of the source's"

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(TrainConfig(), "ours", None, "99.16 % test accuracy (experiments/README.md)"),
        Recipe(
            TrainConfig(recipe="mnist-lenet5", dataset="mnist", epochs=10, batch_size=128),
            "ours",
            None,
            "99.23 % test accuracy (experiments/README.md)",
        ),
        Recipe(
            TrainConfig(recipe="cifar10-resnet20", model="resnet20", **_CIFAR),
            "He et al. 2015, arXiv:1512.03385, section 4.2",
            "8.75 % test error (table 6)",
            differs="trains on all 50,000 training images, 62,560 steps; the source holds out 5,000 until 32,000 steps "
            "are chosen, and takes 64,000; biases and normalisations do not decay",
        ),
        Recipe(
            TrainConfig(
                recipe="cifar10-94",
                model="airbench94",
                epochs=9.74,
                learning_rate=round(11.5 / _AIRBENCH_STEP, 12),
                weight_decay=round(0.0153 * 1024 / 11.5, 6),
                warmup_epochs=2.24,
                final_factor=0.07,
                augment=("mirror:order=alternating", "crop:2,border=reflect"),
                **_AIRBENCH,
            ),
            f"{JORDAN} airbench94",
            "94.01 % test accuracy (mean of 1,000 runs; with test-time augmentation, as test_tta_accuracy)",
            "94.17, 94.03 and 94.01 % with seeds 0, 1 and 2 (docs/cifar10.md)",
            differs=f"float32 unless --dtype says otherwise; {EPOCHS_DROP}",
        ),
        Recipe(
            TrainConfig(
                recipe="cifar10-96",
                model="airbench96",
                epochs=36.37,
                learning_rate=round(9 / _AIRBENCH_STEP, 12),
                weight_decay=round(0.012 * 1024 / 9, 6),
                warmup_epochs=3.637,
                augment=("mirror:order=alternating", "crop:4,border=reflect", "cutout:12,fill=0.473"),
                **_AIRBENCH,
            ),
            f"{JORDAN} airbench96",
            "96.0 % test accuracy (with test-time augmentation, as test_tta_accuracy)",
            differs=f"float32 unless --dtype says otherwise; {EPOCHS_DROP}; cutout fills with one grey, near the mean, "
            "and may reach over the border",
        ),
        Recipe(
            _imagenet(
                "imagenet-resnet50",
                "resnet50",
                epochs=90,
                batch_size=256,
                schedule="cosine",
                warmup_epochs=5,
                zero_init_residual=True,
                **_SGD,
            ),
            "Goyal et al. 2017, arXiv:1706.02677, section 5.1",
            "23.6 % top-1 error (table 1), with the rate divided by 10 instead",
            differs="a cosine instead of divisions by 10; a warm-up, which the source has for larger batches only; no "
            f"colour augmentation; {BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "tv-v1",
                "resnet50",
                epochs=90,
                batch_size=256,
                decay_all=True,
                schedule="multistep",
                milestones=(30.0, 60.0),
                **_SGD,
            ),
            "torchvision, references/classification, defaults on 8 GPUs (weights IMAGENET1K_V1)",
            "76.130 % top-1 accuracy (ResNet-50)",
            differs=BFLOAT16,
        ),
        Recipe(
            _imagenet(
                "tv-v2",
                "resnet50",
                epochs=600,
                batch_size=1024,
                optimizer="sgd",
                learning_rate=0.5,
                weight_decay=2e-5,
                schedule="cosine",
                warmup_epochs=5,
                start_factor=0.01,
                label_smoothing=0.1,
                # Theirs is 1 - 2e-5 x batch x 32 / epochs, every 32nd step.
                ema_decay=0.999966,
                image_size=176,
                augment=(
                    "mirror",
                    "trivialaugment:interpolation=bilinear",
                    "random-erasing:probability=0.1",
                    "mixup-or-cutmix:mixup_alpha=0.2,cutmix_alpha=1",
                ),
            ),
            "torchvision, references/classification, recipe of the weights IMAGENET1K_V2 "
            "(Vryniotis 2021, How to train state-of-the-art models using TorchVision's latest primitives)",
            "80.858 % top-1 accuracy (ResNet-50, tested at 224 pixels)",
            differs="no repeated augmentation; the average moves every step, not every 32nd; tests at 176 pixels too; "
            f"biases do not decay; {BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "timm-a1",
                "resnet50",
                epochs=600,
                learning_rate=5e-3,
                weight_decay=0.01,
                label_smoothing=0.1,
                model_fields=("stochastic_depth_rate=0.05",),
                augment=("mirror", "randaugment:2,21", "mixup-or-cutmix:mixup_alpha=0.2,cutmix_alpha=1"),
                **_TIMM,
            ),
            f"{WIGHTMAN}, A1",
            "80.4 % top-1 accuracy (ResNet-50, 224 pixels)",
            differs="no repeated augmentation; RandAugment's magnitude does not vary, operations are torchvision's; "
            f"images are resized by bilinear interpolation, tested in the middle 87.5 % instead of 95 %; {BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "timm-a2",
                "resnet50",
                epochs=300,
                learning_rate=5e-3,
                weight_decay=0.02,
                model_fields=("stochastic_depth_rate=0.05",),
                augment=("mirror", "randaugment:2,21", "mixup-or-cutmix:mixup_alpha=0.1,cutmix_alpha=1"),
                **_TIMM,
            ),
            f"{WIGHTMAN}, A2",
            "79.8 % top-1 accuracy (ResNet-50, 224 pixels)",
            differs="as timm-a1",
        ),
        Recipe(
            _imagenet(
                "timm-a3",
                "resnet50",
                epochs=100,
                learning_rate=8e-3,
                weight_decay=0.02,
                image_size=160,
                augment=("mirror", "randaugment:2,18", "mixup-or-cutmix:mixup_alpha=0.1,cutmix_alpha=1"),
                **_TIMM,
            ),
            f"{WIGHTMAN}, A3",
            "78.1 % top-1 accuracy (ResNet-50, tested at 224 pixels)",
            differs="as timm-a1, but for repeated augmentation, which the source has none of; tests at 160 pixels too",
        ),
        Recipe(
            TrainConfig(
                recipe="paper-lenet5",
                model="lenet5_1998",
                dataset="mnist",
                epochs=20,
                batch_size=16,
                optimizer="sgd",
                momentum=0.0,
                weight_decay=0.0,
                learning_rate=0.01,
                schedule="cosine",
                augment=(),
            ),
            "LeCun et al. 1998, Gradient-based learning applied to document recognition, section III",
            "0.95 % test error",
            "1.18 % test error (experiments/README.md)",
            differs="cross-entropy and plain gradient descent in batches of 16; the source takes single images, a "
            "second-order estimate of each weight's rate, another loss, and images padded to 32 pixels",
        ),
        Recipe(
            _imagenet(
                "paper-alexnet",
                "alexnet",
                epochs=90,
                batch_size=128,
                optimizer="sgd",
                learning_rate=0.01,
                weight_decay=5e-4,
                decay_all=True,
                schedule="multistep",
                milestones=(30.0, 60.0, 80.0),
                image_size=227,
            ),
            "Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks, section 5",
            "40.7 % top-1 error (one network, ten crops)",
            differs=f"the rate falls at fixed epochs, there by hand; no colour augmentation; {CROPS}; {BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "paper-vgg16",
                "vgg16",
                epochs=74,
                batch_size=256,
                optimizer="sgd",
                learning_rate=0.01,
                weight_decay=5e-4,
                decay_all=True,
                init="glorot",
                schedule="multistep",
                milestones=(20.0, 40.0, 60.0),
            ),
            "Simonyan and Zisserman 2014, arXiv:1409.1556, section 3.1",
            "27.0 % top-1 error (table 3, D, 256 pixels)",
            differs=f"the rate falls at fixed epochs, there when accuracy stopped rising; no colour shift; {CROPS}; "
            f"{BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "paper-googlenet",
                "inception_v1",
                epochs=250,
                batch_size=256,
                optimizer="sgd",
                learning_rate=0.01,
                weight_decay=1e-4,
                schedule="step",
                decay_epochs=8,
                decay_rate=0.96,
                ema_decay=0.9999,
                model_fields=("aux_classifiers=true",),
            ),
            "Szegedy et al. 2014, arXiv:1409.4842, section 6",
            "10.07 % top-5 error (table 3, one network, one crop)",
            differs="learning rate, batch, decay and length are not published; synchronous steps; an exponential "
            f"instead of Polyak's average; no photometric distortions; {BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "paper-resnet50",
                "resnet50",
                epochs=120,
                batch_size=256,
                decay_all=True,
                schedule="multistep",
                milestones=(30.0, 60.0, 90.0),
                **_SGD,
            ),
            "He et al. 2015, arXiv:1512.03385, section 3.4",
            "22.85 % top-1 error (table 3, ten crops)",
            differs=f"the rate falls at fixed epochs, there when the error plateaus; no colour augmentation; {CROPS}; "
            f"{BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "paper-densenet121",
                "densenet121",
                epochs=90,
                batch_size=256,
                nesterov=True,
                decay_all=True,
                schedule="multistep",
                milestones=(30.0, 60.0),
                **_SGD,
            ),
            "Huang et al. 2016, arXiv:1608.06993, section 4.2",
            "25.02 % top-1 error (table 3, one crop)",
            differs=f"no colour augmentation, which the authors' code has; {BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "paper-mobilenet_v2",
                "mobilenet_v2",
                epochs=300,
                batch_size=96,
                optimizer="rmsprop",
                learning_rate=0.045,
                weight_decay=4e-5,
                schedule="step",
                decay_epochs=1,
                decay_rate=0.98,
            ),
            "Sandler et al. 2018, arXiv:1801.04381, section 6.1",
            "72.0 % top-1 accuracy (table 4)",
            differs="one worker, there 16 asynchronous ones of 96 images each; the length is torchvision's, as none is "
            f"published; {CROPS}; {BFLOAT16}",
        ),
        Recipe(
            _imagenet(
                "paper-efficientnet_b0",
                "efficientnet_b0",
                epochs=350,
                batch_size=4096,
                optimizer="rmsprop",
                learning_rate=0.256,
                weight_decay=1e-5,
                schedule="step",
                decay_epochs=2.4,
                decay_rate=0.97,
                warmup_epochs=5,
                label_smoothing=0.1,
                ema_decay=0.9999,
                augment=("mirror", "autoaugment:imagenet"),
            ),
            "Tan and Le 2019, arXiv:1905.11946, section 5.2; batch, warm-up, smoothing and average: the authors' code",
            "77.1 % top-1 accuracy (table 2)",
            differs="the authors' code has batches of 2048 at half the rate, biases that decay, and an average that "
            "starts faster; torchvision's operations in AutoAugment",
        ),
        Recipe(
            _imagenet(
                "paper-convnext_tiny",
                "convnext_tiny",
                epochs=300,
                batch_size=4096,
                optimizer="adamw",
                learning_rate=4e-3,
                weight_decay=0.05,
                schedule="cosine",
                warmup_epochs=20,
                label_smoothing=0.1,
                ema_decay=0.9999,
                model_fields=("stochastic_depth_rate=0.1",),
                augment=(
                    "mirror",
                    "randaugment:2,27",
                    "random-erasing:probability=0.25,fill=noise",
                    "mixup-or-cutmix:mixup_alpha=0.8,cutmix_alpha=1",
                ),
            ),
            "Liu et al. 2022, arXiv:2201.03545, appendix A.1, table 5",
            "82.1 % top-1 accuracy (table 1, 224 pixels)",
            differs="RandAugment's magnitude does not vary, and its operations are torchvision's; images are resized "
            f"by bilinear interpolation; the rate ends at 0 instead of 1e-6; {BFLOAT16}",
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
      ConfigError: no recipe has that name; the message lists near ones.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(RECIPES)}"
        raise ConfigError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name]
