"""The arrays that weights travel in; apart from `ggml`, so that reading a header does not load numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""Encoded rows."""

Floats = NDArray[np.float32]
"""Decoded rows, or the importance of each column."""
