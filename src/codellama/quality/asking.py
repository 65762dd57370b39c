"""How a model is asked a problem, and where its code is in the answer.

A base or Python model goes on with code: with the function that was begun, or behind a docstring that has
the task and its assertions. It does not know when to stop, so the first line that belongs to something else
ends the answer. An Instruct model is asked in a chat, and its code is in the first fenced block. Infill
problems go the way of infilling, with every model that was trained for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from codellama.params import Prompt
from codellama.quality.problems import CodeProblem, Kind
from codellama.running.language_model import LanguageModel

STOPS: Mapping[Kind, tuple[str, ...]] = {
    "function": ("\nclass", "\ndef", "\n#", "\n@", "\nif", "\nprint"),  # of Chen et al. 2021
    "task": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n#"),
    "infill": (),
}
"""What ends the code of a model that is not asked in a chat."""


def prompt_of(llm: LanguageModel, problem: CodeProblem) -> Prompt:
    """The prompt of a problem. Raises UnsupportedError for an infill problem and a model that cannot."""
    if problem.kind == "infill":
        return llm.infill_prompt(problem.prompt, problem.suffix)
    if llm.chat_format is not None:
        return llm.chat_prompt(question(problem))
    return llm.complete_prompt(_beginning(problem))


def stops_of(llm: LanguageModel, problem: CodeProblem) -> tuple[str, ...]:
    """The texts that end an answer to the problem."""
    chats = llm.chat_format is not None and problem.kind != "infill"
    return () if chats else STOPS[problem.kind]


def code_in(llm: LanguageModel, problem: CodeProblem, answer: str) -> str:
    """The code of an answer."""
    chats = llm.chat_format is not None and problem.kind != "infill"
    return problem.code_of(answer) if chats else answer


def question(problem: CodeProblem) -> str:
    """What an Instruct model is asked."""
    if problem.instruction:
        return problem.instruction
    if problem.kind == "task":
        return f"{problem.prompt}\nYour code should pass these tests:\n\n{problem.tests}"
    return (
        "Complete this Python function. Answer with the whole function in one block of code.\n\n"
        f"```python\n{problem.prompt.rstrip()}\n```"
    )


def _beginning(problem: CodeProblem) -> str:
    if problem.kind == "function":
        return problem.prompt
    return f'"""\n{problem.prompt}\n{problem.tests}\n"""\n'
