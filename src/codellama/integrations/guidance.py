"""A chat template for guidance, which decodes by itself and knows no chat handlers: 70B Instruct's turns.

::

    from guidance import assistant, gen, models, system, user

    from codellama.integrations.guidance import CodeLlama70BInstructTemplate

    lm = models.LlamaCpp("70b.gguf", chat_template=CodeLlama70BInstructTemplate)
    with system():
        lm += "You write Python."
    with user():
        lm += "Print a hello world"
    with assistant():
        lm += gen(max_tokens=100, stop="<step>")

guidance writes role by role, and the model was trained with a system turn before all others: where there is
no system text, begin with `lm += NO_SYSTEM`. guidance also tokenizes by itself. Behind `<step>` the space
becomes a token of its own, so the ids are nearly, and not exactly, those that Meta's code feeds.
"""

from __future__ import annotations

from typing import Any

from guidance.chat import ChatTemplate, UnsupportedRoleException

from codellama.integrations.text_formats import no_system_turn, turn_heads
from codellama.variants import STEP

NO_SYSTEM = no_system_turn()


class CodeLlama70BInstructTemplate(ChatTemplate):
    """What stands around the text of a role."""

    def get_role_start(self, role_name: str, **kwargs: Any) -> str:
        """The head of a turn. Raises guidance's UnsupportedRoleException."""
        head = turn_heads().get(role_name)
        if head is None:
            raise UnsupportedRoleException(role_name, self)
        return head

    def get_role_end(self, role_name: str | None = None) -> str:
        """The end of a turn."""
        return STEP
