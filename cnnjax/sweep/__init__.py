"""A search for hyper-parameters: what is tried, where the study is kept, its trials, and their picture.

Needs Optuna, the extra "sweep". ``experiments/sweep.py`` is the program.
"""

from cnnjax.sweep.picture import draw
from cnnjax.sweep.search import Parameter, default_search, with_values
from cnnjax.sweep.study import Place, import_optuna, take_up
from cnnjax.sweep.trials import run_processes, run_trial, work

__all__ = [
    "Parameter",
    "Place",
    "default_search",
    "draw",
    "import_optuna",
    "run_processes",
    "run_trial",
    "take_up",
    "with_values",
    "work",
]
