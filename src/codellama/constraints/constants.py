"""A fixed JSON value, as `const` and `enum` name it, as a constraint on its type."""

from __future__ import annotations

from codellama.constraints.cases import NULL, BooleanSlot, Slot
from codellama.constraints.containers import NOTHING, ArraySlot, Goal, Keys, ObjectSlot, key
from codellama.constraints.document import Node, escaped
from codellama.constraints.keywords import exact
from codellama.constraints.scalars import NumberSlot, StringSlot


def constant(node: Node, value: object) -> tuple[str, Slot]:
    """The type and the slot of one value; parts of it are subschemas with a const."""

    def part(step: str | int, inner: object) -> Goal:
        return ((Node(f"{node.pointer}/{escaped(step)}", {"const": inner}), True),)

    if value is None:
        return "null", NULL
    if isinstance(value, bool):
        return "boolean", BooleanSlot({value})
    if isinstance(value, (int, float)):
        return "number", NumberSlot(values=frozenset([(exact(value), isinstance(value, float))]))
    if isinstance(value, str):
        return "string", StringSlot(values=frozenset([value]))
    if isinstance(value, dict):
        clauses = tuple((key(name), part(name, inner)) for name, inner in value.items())
        closed = Keys((StringSlot(values=frozenset(value)),) if value else (), others=True)
        return "object", ObjectSlot((*clauses, (closed, NOTHING)), tuple(value))
    assert isinstance(value, (list, tuple))
    goals = tuple(part(i, inner) for i, inner in enumerate(value))
    return "array", ArraySlot(goals, least=len(goals), most=len(goals))
