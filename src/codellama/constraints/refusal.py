"""How this room says no: an error that names the place in the schema, what stands there and what to do."""

from __future__ import annotations

from codellama.errors import GrammarError


def refusal(pointer: str, sentence: str, remedy: str = "", **values: object) -> GrammarError:
    """The error for what stands at `pointer` (a JSON pointer such as `#/properties/age/not`).

    `sentence` is a template that may use `values`. The parameter's name is put in by `rename` later.
    """
    reason = sentence.format(**values)
    return GrammarError(
        "{param}: at {pointer}: {reason}", "json_schema", remedy, pointer=pointer, reason=reason
    )


def unsatisfiable() -> GrammarError:
    """The error for a schema that no value satisfies."""
    return refusal(
        "#", "no value satisfies this schema", "look for bounds that contradict each other"
    )
