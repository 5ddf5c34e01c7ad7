"""Train DnCNN to remove noise from photographs, compare it with classic filters, and denoise image files.

    python experiments/denoise.py train                                  # noise of standard deviation 25
    python experiments/denoise.py train --model dncnn20_grey --blind     # of any level from 0 to 55
    python experiments/denoise.py apply --weights runs/denoise-dncnn17_grey-sigma25 --image noisy.png

Needs scikit-image: pip install 'cnnjax[photos]'. `train` learns on patches of its photographs (TRAIN below), holds out
others (TEST, the cameraman among them), and given again goes on with a run that was stopped. ``--workdir`` holds what
every run leaves, and `denoising.json` and pictures: mean PSNR and SSIM on the held-out photographs at noise 15, 25 and
50, of DnCNN and of four filters. Each filter has the strength that is best on these very photographs, of a few; DnCNN
has never seen them.

`apply` denoises an image of any size in tiles, without seams and in bounded memory; `--sigma` adds noise before.

Source: Zhang et al. 2017, arXiv:1608.03981, sections III and IV; differs: 10 photographs instead of 400, Adam with a
cosine schedule, fewer steps, a last convolution that starts at zero. Exit codes: 0; 2 with the reason on stderr; 130 or
143 stopped, and can be resumed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from cnnjax.data import DataError
from cnnjax.data.photographs import load_photograph, read_image, to_grey
from cnnjax.models import create_model, model_info
from cnnjax.pretrained import load
from cnnjax.training import (
    ConfigError,
    Devices,
    TrainState,
    eval_step,
    fit,
    make_optimizer,
    make_schedule,
    run_command,
    train_step,
)
from cnnjax.training.metrics import Regression, means
from cnnjax.training.optim import OptimizerName, ScheduleName
from cnnjax.training.parallel import ParallelMode
from cnnjax.training.setup import sum_over

TRAIN = (
    "brick", "cat", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "motorcycle", "retina", "rocket",
)  # fmt: skip
TEST = ("camera", "astronaut", "coffee", "coins")
# Training photographs are taken at these sizes, as shrunk ones hold more detail a pixel.
SCALES = (1.0, 0.75, 0.5)
# Standard deviations of the noise, in grey levels of 255, that results are reported at; highest one of blind training.
LEVELS = (15.0, 25.0, 50.0)
BLIND_LIMIT = 55.0
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
# Of a folder's images, every fifth is held out.
TEST_EVERY = 5
# Patches of each held-out image that the loss is measured on after each epoch.
TEST_PATCHES = 16
METRICS = Regression(peak=1.0)


# ------------------------------------------------------------------------------------------------------------- config


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainDenoiser:
    """Train a denoiser, or go on with a run that was stopped."""

    model: str = "dncnn17_grey"
    """dncnn17_grey, dncnn17_colour, dncnn20_grey or dncnn20_colour."""
    dataset: Literal["photographs", "folder"] = "photographs"
    """scikit-image's photographs, or the image files of --data-dir, of which every fifth is held out."""
    data_dir: Path | None = None
    """Folder of image files."""
    workdir: Path | None = None
    """Folder of the run; None: runs/denoise-<model>-<noise>."""
    sigma: float = 25.0
    """Standard deviation of the noise, grey levels of 255."""
    blind: bool = False
    """Train on all levels from 0 to 55 instead of --sigma."""
    loss: Literal["mse", "mae"] = "mse"
    """Mean squared or mean absolute error, pixels in [0, 1]."""
    epochs: float = 8
    """Epochs of --patches patches."""
    patches: int = 1600
    """Patches an epoch, each cut out, turned and mirrored at random."""
    patch_size: int | None = None
    """Pixels, height and width; None: the paper's (40, or 50 for 20 layers)."""
    batch_size: int = 16
    """Patches a step, over all devices."""
    learning_rate: float = 2e-3
    """After warm-up."""
    warmup_epochs: float = 0.25
    """Linear rise of the learning rate from 0."""
    optimizer: OptimizerName = "adam"
    """Optimizer, from optax."""
    schedule: ScheduleName = "cosine"
    """Course of the learning rate: cosine falls to 0, multistep divides by 10 at 50 % and 75 % of the run."""
    weight_decay: float = 0.0
    """Of weights; normalisation does not decay."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation."""
    seed: int = 0
    """Of everything random: parameters, patches, noise."""
    parallel: ParallelMode = "auto"
    """jit, pmap: all devices, see README; single: one device; auto: pmap if there are several devices."""
    log_steps: int = 20
    """Steps between two training lines in metrics.jsonl."""
    checkpoint_steps: int = 0
    """Also save a checkpoint every so many steps; 0: only at the end of each epoch."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        checks = [
            ("sigma", 0 <= self.sigma < math.inf, "at least 0 and finite"),
            ("epochs", 0 < self.epochs < math.inf, "above 0 and finite"),
            ("patches", self.patches >= 1, "at least 1"),
            ("patch_size", self.patch_size is None or self.patch_size >= 1, "at least 1"),
            ("batch_size", 1 <= self.batch_size <= self.patches, f"from 1 to patches ({self.patches})"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"at least 0 and below epochs ({self.epochs})"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
            ("log_steps", self.log_steps >= 1, "at least 1"),
            ("checkpoint_steps", self.checkpoint_steps >= 0, "at least 0"),
        ]
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} must be {expected}, got {getattr(self, name)}")
        _check_model(self.model)
        if (self.dataset == "folder") != (self.data_dir is not None):
            raise ConfigError("--dataset folder and --data-dir DIR go together; give both or neither")

    @property
    def run_directory(self) -> Path:
        """Folder of the run."""
        noise = "blind" if self.blind else f"sigma{self.sigma:g}"
        return self.workdir or Path("runs") / f"denoise-{self.model}-{noise}"

    @property
    def size(self) -> int:
        """Height and width of the patches, pixels."""
        return self.patch_size or model_info(self.model).input_size[0]

    @property
    def noise(self) -> AddNoise:
        """What is done to the patches."""
        return AddNoise(0.0, BLIND_LIMIT) if self.blind else AddNoise(self.sigma, self.sigma)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoise:
    """Denoise an image file."""

    weights: str
    """A run of `train`, or what cnnjax.pretrained.load reads (then --model says what it is)."""
    image: Path
    """The noisy image."""
    output: Path | None = None
    """Where the result goes; None: <image>-denoised.png."""
    model: str | None = None
    """Name of the network; None: as the run says."""
    sigma: float = 0.0
    """Standard deviation of noise that is added before, grey levels of 255."""
    each_channel: bool = False
    """Let a grey network denoise the channels of a colour image one by one."""
    tile: int = 256
    """Pixels, height and width, of what is denoised at a time; memory grows with it."""
    seed: int = 0
    """Of the noise that is added."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is read."""
        if not 0 <= self.sigma < math.inf:
            raise ConfigError(f"sigma must be at least 0 and finite, got {self.sigma}")
        if self.tile < 1:
            raise ConfigError(f"tile must be at least 1, got {self.tile}")


def _check_model(name: str) -> None:
    try:
        info = model_info(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if info.family != "dncnn":
        raise ConfigError(f"model must be a DnCNN (dncnn17_grey, dncnn20_colour, ...), got {name!r}")


# --------------------------------------------------------------------------------------------------------------- data


def photographs(config: TrainDenoiser) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the images to train on and those held out, by name: uint8[height, width, channels of the network].

    Grey photographs are left out of the training of a colour network, and colours are made grey for a grey one.
    """
    channels = model_info(config.model).channels
    if config.data_dir is None:
        everything = [{name: load_photograph(name) for name in names} for names in (TRAIN, TEST)]
    else:
        if not config.data_dir.is_dir():
            raise DataError(f"data_dir {str(config.data_dir)!r} is not a folder; give a folder of image files")
        files = sorted(path for path in config.data_dir.iterdir() if path.suffix.lower() in IMAGE_FILES)
        everything = [{}, {}]
        for index, path in enumerate(files):
            everything[index % TEST_EVERY == TEST_EVERY - 1][path.stem] = read_image(path)
    train, test = (
        {
            name: to_grey(pixels) if channels == 1 else pixels
            for name, pixels in images.items()
            if channels == 1 or pixels.shape[-1] == channels
        }
        for images in everything
    )
    for name, images in (("train on", train), ("hold out", test)):
        if not images:
            raise DataError(
                f"there is no image of {channels} channels to {name}; a folder needs {TEST_EVERY} image files or more"
            )
        small = [key for key, pixels in images.items() if min(pixels.shape[:2]) < config.size]
        if small:
            raise DataError(
                f"image {small[0]!r} of {images[small[0]].shape[:2]} pixels is smaller than a patch ({config.size}); "
                "lower --patch-size or leave it out"
            )
    return train, test


@dataclasses.dataclass(frozen=True)
class PatchStream:
    """Random access to the training batches of a run (a Grain data source): each depends on seed and number alone.

    Attributes:
      images: uint8[height, width, channels] each; larger ones give more patches.
      size: of the patches, pixels.
    """

    images: Sequence[np.ndarray]
    size: int
    batch_size: int
    num_batches: int
    seed: int

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return batch number ``index``: image uint8[batch, size, size, channels], target the same as float32."""
        shares = np.array([image.shape[0] * image.shape[1] for image in self.images], np.float64)
        patches = []
        for number in range(index * self.batch_size, (index + 1) * self.batch_size):
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, number))))
            image = self.images[generator.choice(len(self.images), p=shares / shares.sum())]
            top, left = (int(generator.integers(0, length - self.size + 1)) for length in image.shape[:2])
            patch = np.rot90(image[top : top + self.size, left : left + self.size], int(generator.integers(4)))
            patches.append(patch[:, ::-1] if generator.integers(2) else patch)
        stack = np.stack(patches)
        return {"image": stack, "target": stack.astype(np.float32) / 255}


@dataclasses.dataclass(frozen=True)
class Patches:
    """The batches of a run.

    Attributes:
      train: images at all scales.
      noisy, clean: float32[examples, size, size, channels], held out.
    """

    train: Sequence[np.ndarray]
    noisy: np.ndarray
    clean: np.ndarray
    size: int

    @classmethod
    def create(cls, config: TrainDenoiser) -> Patches:
        """Read the images that ``config`` names."""
        train, test = photographs(config)
        scaled = [_scale(pixels, scale) for pixels in train.values() for scale in SCALES]
        size = config.size
        clean = np.concatenate([_grid(pixels, size) for pixels in test.values()]).astype(np.float32) / 255
        levels = np.resize(LEVELS if config.blind else (config.sigma,), len(clean)).reshape(-1, 1, 1, 1)
        noise = np.random.default_rng(config.seed).normal(size=clean.shape) * levels / 255
        fitting = [pixels for pixels in scaled if min(pixels.shape[:2]) >= size]
        return cls(fitting, (clean + noise).astype(np.float32), clean, size)

    def train_batches(self, batch_size: int, num_batches: int, seed: int) -> grain.DatasetIterator:
        """Return an iterator over training batches, whose state is its position."""
        stream = PatchStream(self.train, self.size, batch_size, num_batches, seed)
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        return iter(grain.MapDataset.source(stream).to_iter_dataset(options))

    def test_batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield every held-out patch once; the last batch is padded, and ``mask`` is 0 on the padding."""
        for start in range(0, len(self.clean), batch_size):
            noisy, clean = self.noisy[start : start + batch_size], self.clean[start : start + batch_size]
            missing = ((0, batch_size - len(clean)), (0, 0), (0, 0), (0, 0))
            mask = np.arange(batch_size) < len(clean)
            yield {"image": np.pad(noisy, missing), "target": np.pad(clean, missing), "mask": mask}


def _scale(pixels: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC)).reshape(size[1], size[0], pixels.shape[-1])


def _grid(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return patches spread evenly over an image."""
    side = math.isqrt(TEST_PATCHES)
    tops, lefts = (np.linspace(0, length - size, side).astype(int) for length in pixels.shape[:2])
    return np.stack([pixels[top : top + size, left : left + size] for top in tops for left in lefts])


@dataclasses.dataclass(frozen=True)
class AddNoise:
    """Turn clean training patches into noisy ones; what is evaluated is noisy already and stays as it is.

    Hashable, so that it can be closed over by a compiled step.

    Attributes:
      low, high: range of the noise's standard deviation, drawn for each patch, in grey levels of 255.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ConfigError(f"noise must be at least 0, got a range of {self.low} to {self.high}")

    def __call__(self, batch: Mapping[str, jax.Array], keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Add noise to the images, uint8[batch, height, width, channels], with one key each; without, do nothing."""
        if keys is None:
            return dict(batch)
        images = batch["image"].astype(jnp.float32) / 255

        def noisy(key: jax.Array, image: jax.Array) -> jax.Array:
            level_key, noise_key = jax.random.split(key)
            level = jax.random.uniform(level_key, minval=self.low / 255, maxval=self.high / 255)
            # Drawn flat: XLA's CPU compiler takes seconds for draws of more dimensions.
            return image + level * jax.random.normal(noise_key, (image.size,)).reshape(image.shape)

        return {**batch, "image": jax.vmap(noisy)(keys, images)}


# ----------------------------------------------------------------------------------------------------------- training


@dataclasses.dataclass(frozen=True)
class DenoiserSetup:
    """What the training loop needs: see `cnnjax.training.setup.RunSetup`."""

    config: TrainDenoiser
    devices: Devices
    model: nn.Module
    pipeline: Patches
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    num_steps: int
    train: Callable[[Any, Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], Any]
    metrics = METRICS
    measure = "loss"

    @classmethod
    def create(cls, config: TrainDenoiser) -> DenoiserSetup:
        """Build everything that ``config`` names."""
        devices = Devices.choose(config.parallel)
        try:
            devices.check_batch_size(config.batch_size)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        num_steps = math.ceil(config.epochs * config.patches / config.batch_size)
        warmup_steps = round(config.warmup_epochs * config.patches / config.batch_size)
        try:
            schedule = make_schedule(config.schedule, config.learning_rate, num_steps, warmup_steps=warmup_steps)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        options: dict[str, Any] = {"preprocess": config.noise, "loss": config.loss, "metrics": METRICS}
        return cls(
            config=config,
            devices=devices,
            model=create_model(config.model, dtype=jnp.dtype(config.dtype)),
            pipeline=Patches.create(config),
            schedule=schedule,
            tx=make_optimizer(config.optimizer, schedule, weight_decay=config.weight_decay),
            num_steps=num_steps,
            train=devices.compile_train(partial(train_step, **options)),
            evaluate=devices.compile_eval(partial(eval_step, **options)),
        )

    @property
    def num_examples(self) -> int:
        """Patches an epoch."""
        return self.config.patches

    def initial_state(self) -> TrainState:
        """Return the state of step 0: a network that leaves images as they are."""
        channels = model_info(self.config.model).channels
        images = jnp.zeros((1, self.config.size, self.config.size, channels))
        state = TrainState.create(self.model, self.tx, jax.random.key(self.config.seed), images)
        # With He's weights the last convolution predicts far too much noise, and takes a hundred steps to unlearn that.
        return state.replace(params=state.params | {"head": jax.tree.map(jnp.zeros_like, state.params["head"])})

    def test(self, state: Any) -> dict[str, float]:
        """Return the mean loss over the held-out patches."""
        batch_size = self.devices.pad_batch_size(self.config.batch_size)
        batches = self.pipeline.test_batches(batch_size)
        return means(sum_over(self.devices, self.evaluate, state, batches, METRICS), METRICS)

    def resolved(self) -> dict[str, Any]:
        """Return what the config left open."""
        return {
            "train_images": len(self.pipeline.train),
            "test_patches": len(self.pipeline.clean),
            "patch_size": self.config.size,
            "steps": self.num_steps,
        }


# ---------------------------------------------------------------------------------------------------------- denoising


class Denoiser:
    """A DnCNN with its weights, which denoises images of any size in tiles.

    A value of the output depends on what lies up to ``depth`` pixels around it (one for each 3x3 convolution), so
    tiles that overlap by that much leave no seams: the result is that of the whole image at once, up to rounding.

    Args:
      name: the variant.
      variables: its weights.
      tile: pixels, height and width, denoised at a time.
    """

    def __init__(self, name: str, variables: Any, tile: int = 256) -> None:
        model = create_model(name)
        self.channels = model_info(name).channels
        self.margin = model.depth
        self.tile = tile
        self._variables = variables
        self._apply = jax.jit(model.apply)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Denoise float32[height, width, channels], pixels in [0, 1] with noise beyond; the same shape comes out.

        Raises:
          ValueError: another number of channels than the network's, or no pixels.
        """
        if image.ndim != 3 or image.shape[-1] != self.channels or image.size == 0:
            raise ValueError(
                f"the network takes images of {self.channels} channels, got shape {image.shape}; "
                + ("make the image grey, or give --each-channel" if self.channels == 1 else "take a grey network")
            )
        out = np.empty(image.shape, np.float32)
        rows, columns = (_tiles(length, self.tile, self.margin) for length in image.shape[:2])
        for row in rows:
            for column in columns:
                window = image[None, row.window, column.window].astype(np.float32)
                result = np.asarray(self._apply(self._variables, window))[0]
                out[row.place, column.place] = result[row.kept, column.kept]
        return out

    def each_channel(self, image: np.ndarray) -> np.ndarray:
        """Denoise each channel of float32[height, width, channels] by itself with a grey network."""
        return np.concatenate([self(image[..., index : index + 1]) for index in range(image.shape[-1])], -1)


@dataclasses.dataclass(frozen=True)
class Tile:
    """Along one dimension: what the network gets to see, which part of its output is kept, and where that goes."""

    window: slice
    kept: slice
    place: slice


def _tiles(length: int, tile: int, margin: int) -> list[Tile]:
    """Divide ``length`` pixels so that windows have one size, and no kept pixel is nearer to a cut than ``margin``."""
    size = min(tile + 2 * margin, length)
    tiles = []
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        # Windows at the ends are moved inwards: there the network meets the border of the image, as it should.
        low = min(max(start - margin, 0), length - size)
        tiles.append(Tile(slice(low, low + size), slice(start - low, stop - low), slice(start, stop)))
    return tiles


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB, pixels in [0, 1]: -10 log10 of the mean squared error."""
    error = float(np.mean((image.astype(np.float64) - clean) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: np.ndarray, clean: np.ndarray) -> float:
    """Return the structural similarity, with the Gaussian window of Wang et al. 2004."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            image, clean, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


Filter = Callable[[np.ndarray, float, float], np.ndarray]


def filters() -> dict[str, tuple[Filter, Sequence[float]]]:
    """Return scikit-image's denoisers by name: (image, noise in [0, 1], strength) -> image, and strengths to try."""
    from skimage import restoration
    from skimage.filters import gaussian, median

    def median_of(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
        window = np.ones((int(strength), int(strength), 1))
        return median(image, window, mode="reflect")

    def means_of(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
        # Drops a single channel.
        return restoration.denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=strength * noise, sigma=noise, fast_mode=True, channel_axis=-1
        ).reshape(image.shape)

    def wavelet(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
        return restoration.denoise_wavelet(
            image, sigma=strength * noise, method="BayesShrink", mode="soft", rescale_sigma=True, channel_axis=-1
        )

    return {
        "Gaussian": (lambda image, noise, width: gaussian(image, width, channel_axis=-1), (0.7, 1.0, 1.4, 2.0)),
        "median": (median_of, (3, 5, 7)),
        "non-local means": (means_of, (0.5, 0.7, 0.9)),
        "wavelet": (wavelet, (0.8, 1.0, 1.2)),
    }


def compare(denoiser: Denoiser, images: Mapping[str, np.ndarray], seed: int, folder: Path) -> dict[str, Any]:
    """Measure the denoiser and all filters on the held-out images, and draw them.

    Every result is clipped to [0, 1], which the noise is not.

    Returns:
      By noise level and method: mean ``psnr`` (dB) and ``ssim``, the filter's ``strength``, and both by image.
    """
    found: dict[str, Any] = {}
    drawn: dict[str, dict[float, dict[str, np.ndarray]]] = {name: {} for name in images}
    for level in LEVELS:
        generator = np.random.default_rng((seed, int(level)))
        clean = {name: pixels.astype(np.float32) / 255 for name, pixels in images.items()}
        noisy = {
            name: pixels + generator.normal(size=pixels.shape).astype(np.float32) * np.float32(level / 255)
            for name, pixels in clean.items()
        }
        results: dict[str, tuple[dict[str, np.ndarray], float | None]] = {
            "noisy": (noisy, None),
            "DnCNN": ({name: denoiser(image) for name, image in noisy.items()}, None),
        }
        for method, (function, strengths) in filters().items():
            tried = [({name: function(image, level / 255, s) for name, image in noisy.items()}, s) for s in strengths]
            results[method] = max(tried, key=lambda pair: _mean_psnr(pair[0], clean))
        rows: dict[str, Any] = {}
        for method, (outputs, strength) in results.items():
            clipped = {name: np.clip(output, 0, 1).astype(np.float32) for name, output in outputs.items()}
            by_image = {
                name: {"psnr": psnr(output, clean[name]), "ssim": ssim(output, clean[name])}
                for name, output in clipped.items()
            }
            rows[method] = {
                **{key: float(np.mean([row[key] for row in by_image.values()])) for key in ("psnr", "ssim")},
                **({} if strength is None else {"strength": strength}),
                "images": by_image,
            }
            for name, output in clipped.items():
                drawn[name].setdefault(level, {"clean": clean[name]})[method] = output
        found[f"{level:g}"] = rows
    for name, levels in drawn.items():
        draw(levels, f"{name}: PSNR in dB", folder / f"{name}.png")
    return found


def _mean_psnr(outputs: Mapping[str, np.ndarray], clean: Mapping[str, np.ndarray]) -> float:
    return float(np.mean([psnr(np.clip(output, 0, 1), clean[name]) for name, output in outputs.items()]))


def draw(levels: Mapping[float, Mapping[str, np.ndarray]], title: str, path: Path) -> None:
    """Draw noisy, best filter, denoised, clean and the difference of the last two, one row a noise level."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.2 * len(levels) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (level, outputs) in zip(figure.subplots(len(levels), 5, squeeze=False), levels.items(), strict=True):
        clean = outputs["clean"]
        best = max((name for name in outputs if name in filters()), key=lambda name: psnr(outputs[name], clean))
        panels = [(f"noise {level:g}", outputs["noisy"]), (best, outputs[best]), ("DnCNN", outputs["DnCNN"])]
        for each, (label, image) in zip(axes, panels, strict=False):
            _panel(each, image, f"{label}: {psnr(image, clean):.2f}")
        _panel(axes[3], clean, "clean")
        _panel(axes[4], 0.5 + 2 * (outputs["DnCNN"] - clean), "DnCNN less clean, doubled (0: grey)")
    figure.savefig(path, dpi=100)


def _panel(axes: Any, image: np.ndarray, title: str) -> None:
    image = np.clip(image, 0, 1)
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=10)
    axes.set(xticks=[], yticks=[])


# ------------------------------------------------------------------------------------------------------- command line


def train(config: TrainDenoiser, console: Console) -> None:
    """Train, compare with the filters, and draw."""
    _, images = photographs(config)
    filters()  # fails here, not after training, where scikit-image is missing
    fit(config, console, DenoiserSetup.create)
    report = config.run_directory / "denoising.json"
    if report.exists():
        found = json.loads(report.read_text())
    else:
        variables = load(config.model, config.run_directory)
        found = compare(Denoiser(config.model, variables), images, config.seed, config.run_directory)
        report.write_text(json.dumps(found, indent=2) + "\n")
    table = Table(title=f"PSNR in dB and SSIM, mean of {', '.join(images)}")
    table.add_column("")
    for level in found:
        table.add_column(f"noise {level}", justify="right")
    for method in next(iter(found.values())):
        table.add_row(method, *(f"{rows[method]['psnr']:.2f} / {rows[method]['ssim']:.3f}" for rows in found.values()))
    console.print(table)
    console.print(f"Pictures are in {config.run_directory}", soft_wrap=True)


def denoise(config: Denoise, console: Console) -> None:
    """Denoise an image file."""
    name = config.model or _model_of_run(config.weights)
    _check_model(name)
    pixels = read_image(config.image)
    denoiser = Denoiser(name, load(name, config.weights), config.tile)
    image = pixels.astype(np.float32) / 255
    noise = np.random.default_rng(config.seed).normal(size=image.shape).astype(np.float32)
    noisy = image + noise * np.float32(config.sigma / 255) if config.sigma else image
    result = np.clip(denoiser.each_channel(noisy) if config.each_channel else denoiser(noisy), 0, 1)
    output = config.output or config.image.with_name(f"{config.image.stem}-denoised.png")
    final = np.round(result * 255).astype(np.uint8)
    Image.fromarray(final[..., 0] if final.shape[-1] == 1 else final).save(output)
    if config.sigma:
        before, after = psnr(np.clip(noisy, 0, 1), image), psnr(result, image)
        console.print(f"PSNR {before:.2f} dB with noise {config.sigma:g}, {after:.2f} dB denoised")
    console.print(f"The result is {output}", soft_wrap=True)


def _model_of_run(weights: str) -> str:
    file = Path(weights) / "config.json"
    try:
        return json.loads(file.read_text())["config"]["model"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{weights} is no run of train ({file} cannot be read); give --model with weights") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    commands: dict[str, Callable[..., Any]] = {"train": TrainDenoiser, "apply": Denoise}

    def command() -> None:
        config = tyro.extras.subcommand_cli_from_dict(commands, args=arguments, description=__doc__)
        if isinstance(config, TrainDenoiser):
            train(config, Console())
        else:
            denoise(config, Console())

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
