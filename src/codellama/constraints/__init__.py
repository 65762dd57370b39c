"""What an answer may be: JSON schemas, regular expressions and grammars, enforced by llguidance.

`Constraints` belongs to a loaded model. Its `compile_schema` runs in the caller's thread and gives a
`Grammar`, which is kept and shared. A `Matcher` walks one answer through it. The sampler asks `fits` for a
drawn token. Only if the token does not fit, `allowed` gives the mask for another draw. Then `accept` takes
the token.

A schema goes through these hands:

- `document` checks its size and finds what `$ref` points to.
- `keywords` makes a constraint, a slot, of each assertion. Each slot knows its opposite.
- `unfold` says what each place allows, for each type. So `not`, `oneOf` and `if` are exact.
- `emit`, `objects`, `arrays`, `strings`, `numbers` write rules. `rules` leaves out those that lead nowhere.
- `trial` refuses patterns that come to too many states.

A grammar cannot remember, so `unique` watches what has to differ: items under `uniqueItems`, counted keys.

llguidance has a compiler for JSON schemas of its own. It is used for odd multiples only: it (1.9.1) refuses
keywords that people use, and reads some property names otherwise than JSON does.

Answers that call functions are one grammar too: `calls` joins the rules of their schemas with free words.

A keyword is enforced, or refused by name. `check_gbnf` guards llama.cpp's own grammars. All bounds are in
`limits`.
"""

from codellama.constraints.calls import check_tools
from codellama.constraints.compiler import Constraints
from codellama.constraints.gbnf import check_gbnf
from codellama.constraints.matcher import Grammar, Matcher
from codellama.constraints.vocabulary import TokenPieces

__all__ = ["Constraints", "Grammar", "Matcher", "TokenPieces", "check_gbnf", "check_tools"]
