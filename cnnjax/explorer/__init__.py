"""A page that shows a network at work: ``python -m cnnjax.explorer``."""

from cnnjax.explorer.network import Network
from cnnjax.explorer.page import one_file
from cnnjax.explorer.pictures import Examples
from cnnjax.explorer.server import Server

__all__ = ["Examples", "Network", "Server", "one_file"]
