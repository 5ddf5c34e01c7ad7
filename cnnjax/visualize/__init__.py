"""Pictures."""

from cnnjax.visualize.arithmetic import draw_convolution_steps, draw_transposed_sum
from cnnjax.visualize.confusion import plot_confusion
from cnnjax.visualize.curves import plot_curves, plot_runs
from cnnjax.visualize.features import draw_feature_maps, draw_filters, draw_projections
from cnnjax.visualize.maps import draw_maps, draw_predictions
from cnnjax.visualize.network import draw_network
from cnnjax.visualize.overlay import overlay
from cnnjax.visualize.panels import draw_blocks, draw_panels
from cnnjax.visualize.quality import draw_randomization, draw_removal_curves

__all__ = [
    "draw_blocks",
    "draw_convolution_steps",
    "draw_feature_maps",
    "draw_filters",
    "draw_maps",
    "draw_network",
    "draw_panels",
    "draw_predictions",
    "draw_projections",
    "draw_randomization",
    "draw_removal_curves",
    "draw_transposed_sum",
    "overlay",
    "plot_confusion",
    "plot_curves",
    "plot_runs",
]
