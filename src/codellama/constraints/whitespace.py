"""The white space that may stand between two tokens of JSON."""

WHITESPACE = r" |\n[ \t]{0,64}"
"""Between two tokens of JSON: nothing, one blank, or a line break with its indent."""
