"""The error for weights that no run can convert."""

from __future__ import annotations

from codellama.errors import ConversionError


class UnusableWeightsError(ConversionError):
    """The weights themselves are at fault: the same run would fail again at the same place."""
