"""Pictures."""

from cnnjax.visualize.curves import plot_curves

__all__ = ["plot_curves"]
