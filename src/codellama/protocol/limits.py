"""How large a request may be: every bound on what a client chooses, in one place.

They are checked before anything is unrolled or handed on, and leave room for what clients send. What a
schema, an expression or a grammar may be is said in `codellama.constraints`.
"""

from __future__ import annotations

BODY_BYTES = 32 << 20
"""A body, unless the server is told otherwise."""
DEPTH = 100
"""Nesting of objects and arrays in a body."""
VALUES = 1_000_000
"""Objects, arrays, texts and numbers in a body, counted together: token ids of many long prompts."""
NUMBER_CHARS = 300
"""The spelling of a number: a whole one of this length still is a finite 64-bit decimal fraction."""
TEXT_CHARS = 8 << 20
"""A text: several times what the longest context of these models holds."""

PROMPTS = 2048
"""Prompts of one request: OpenAI's limit for the inputs of embeddings."""
MESSAGES = 10_000
"""Messages of a dialog."""
EXTRA_TEXTS = 1000
"""Texts of other files in a request to infill."""
LIST_ITEMS = 256
"""Stop strings and all other lists of settings; each may cost time at every token."""
CHOICES = 1000
"""Texts of which an answer is to be one."""
BIASES = 100_000
"""Entries of `logit_bias`: every token of a vocabulary three times."""
STOP_CHARS = 4096
"""One stop string, or any other text in a list of settings."""
SEED_BITS = 64
"""Of a seed, in OpenAI's documentation."""
IGNORED_NAMES = 64
"""Names that a response header lists, each cut to `NAME_CHARS`."""
NAME_CHARS = 64
FILE_NAME_CHARS = 200
"""The name of a file in the server's folder of states."""
