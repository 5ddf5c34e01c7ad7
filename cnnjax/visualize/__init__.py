"""Pictures."""

from cnnjax.visualize.confusion import plot_confusion
from cnnjax.visualize.curves import plot_curves
from cnnjax.visualize.overlay import overlay
from cnnjax.visualize.panels import draw_panels

__all__ = ["draw_panels", "overlay", "plot_confusion", "plot_curves"]
