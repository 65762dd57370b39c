"""What Ray reads from the environment when it is imported, set before that where the user has not set it."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping


def prepare(environ: MutableMapping[str, str], own: bool) -> None:
    """Set what is not set: no reports to Ray's makers, and for a cluster of our `own` a token.

    Ray would make a token too, and write it into the user's home, where it stays. Ours is in the environment
    of the cluster's processes and nowhere else.
    """
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if own:
        environ.setdefault("RAY_AUTH_MODE", "token")
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(environ):
            environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
