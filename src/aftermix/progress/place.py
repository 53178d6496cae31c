"""The place whose user reads what a process tells: a notebook or not."""

from __future__ import annotations

import sys
import warnings


def is_notebook() -> bool:
    """True in a process whose output a notebook shows: that of a Jupyter kernel."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def settle_notebook() -> None:
    """In a notebook, have tqdm choose the bars of other libraries without its advice to install ipywidgets.

    None of these bars is shown while ours are.
    """
    if is_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tqdm.auto  # noqa: F401
