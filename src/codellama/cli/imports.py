"""Imports of what a command needs, without a search for garbage in what stays.

Python looks for cycles among new objects again and again while modules are imported. Nothing of them is
garbage, and the search takes a tenth of a start. What was imported is also left out of later searches.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """Around imports of modules that stay to the end of the process."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
