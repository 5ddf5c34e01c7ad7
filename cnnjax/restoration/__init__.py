"""Images made better: noise, networks that take it away in tiles, classic filters, and what a result is worth."""

from cnnjax.restoration.filters import FILTERS, best_strength
from cnnjax.restoration.noise import AddNoise, add_noise
from cnnjax.restoration.quality import psnr, ssim
from cnnjax.restoration.tiles import Denoiser

__all__ = ["FILTERS", "AddNoise", "Denoiser", "add_noise", "best_strength", "psnr", "ssim"]
