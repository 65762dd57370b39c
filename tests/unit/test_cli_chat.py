from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from codellama.cli import main
from codellama.cli.repl import PlainStream, Repl
from codellama.engine.request import Delta, FinishReason, Usage
from codellama.errors import ContextLengthError, DecodeError, QueueFullError, UnsupportedError
from codellama.params import ContextPolicy
from codellama.session import Answer, Session
from tests.fake_llm import say
from tests.scripted_llm import Opener, ScriptedLLM


def invoke(
    monkeypatch: pytest.MonkeyPatch, llm: ScriptedLLM | Exception, *args: str, stdin: str = ""
) -> Result:
    monkeypatch.setattr("codellama.cli.chat.open_model", Opener(llm))
    return CliRunner().invoke(main, ["chat", *args], input=stdin)


# -- without a terminal ---------------------------------------------------------------------------


def test_a_piped_question_gets_a_plain_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ScriptedLLM(say("**bold** ", "text"))
    result = invoke(monkeypatch, llm, "m.gguf", stdin="a question\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "**bold** text\n", "")
    assert llm.asked == ["user: a question\n"]
    assert llm.closed


def test_the_question_can_be_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ScriptedLLM(say("yes\n"))
    result = invoke(monkeypatch, llm, "m", "-p", "ok?", "--system", "be brief", "--temp", "0")
    assert result.stdout == "yes\n"
    assert llm.asked == ["system: be brief\nuser: ok?\n"]
    assert llm.calls[0].params.temperature == 0


@pytest.mark.parametrize("args", [[], ["-p", " "]])
def test_no_question_is_bad_usage(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    result = invoke(monkeypatch, ScriptedLLM(), "m", *args)
    assert result.exit_code == 2
    assert "no question: give one by --prompt or on standard input" in result.stderr


def test_bytes_that_are_no_text_are_bad_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codellama.cli.chat.open_model", Opener(ScriptedLLM()))
    result = CliRunner().invoke(main, ["chat", "m"], input=b"\xff\xfe")
    assert result.exit_code == 2
    assert "standard input is not UTF-8 text" in result.stderr


def test_a_failing_answer_is_one_line_after_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = Delta(finish_reason=FinishReason.ERROR, error=DecodeError("llama.cpp failed"))
    result = invoke(monkeypatch, ScriptedLLM([Delta("so far"), failure]), "m", "-p", "hi")
    assert (result.exit_code, result.stdout) == (1, "so far")
    assert result.stderr == "Error: llama.cpp failed\n"


def test_a_prompt_beyond_the_context_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, ContextLengthError(5000, 4096), "m", "-p", "hi")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: the prompt is too long, with 5000 tokens it exceeds the available context size of 4096"
    )
    assert "Traceback" not in result.output


def test_model_options_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener(ScriptedLLM(say("x")))
    monkeypatch.setattr("codellama.cli.chat.open_model", opener)
    monkeypatch.setenv("CODELLAMA_MODEL", "from-env.gguf")
    CliRunner().invoke(main, ["chat", "-p", "hi", "-c", "512", "--no-mmap"])
    assert opener.opened == [("from-env.gguf", {"n_ctx": 512, "use_mmap": False})]


def test_the_context_policy_counts_for_one_question_too(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = Opener(ScriptedLLM(say("x")))
    monkeypatch.setattr("codellama.cli.chat.open_model", opener)
    CliRunner().invoke(main, ["chat", "m", "-p", "hi", "--context-policy", "drop_oldest"])
    assert opener.opened == [("m", {"context_policy": "drop_oldest"})]


# -- on a terminal --------------------------------------------------------------------------------


def talk(llm: ScriptedLLM, *lines: str, context_policy: ContextPolicy | None = None) -> str:
    """The transcript of a conversation in which the user types `lines` and leaves."""
    file = io.StringIO()
    console = Console(file=file, width=100, highlight=False)
    typed: Iterator[str] = iter(lines)

    def next_line() -> str:
        try:
            line = next(typed)
        except StopIteration:
            raise EOFError from None
        file.write(f"> {line}\n")
        return line

    session = Session(llm, context_policy=context_policy)
    Repl(session, console, next_line, PlainStream, {}).run()
    return file.getvalue()


def test_an_error_in_a_conversation_names_options() -> None:
    command = main.get_command(click.Context(main), "chat")
    assert command is not None
    failure = UnsupportedError("no room", "set a larger {n_ctx}")
    with click.Context(command):
        assert "Error: no room: set a larger --ctx-size\n" in talk(ScriptedLLM(failure), "hi")


def test_a_conversation() -> None:
    llm = ScriptedLLM(say("Hello", "!"), say("Fine."))
    assert talk(llm, "hi", "  ", "how are you?", "/exit", "never asked") == (
        "> hi\n"
        "Hello!\n"
        "6 tokens, 2.0 tokens/s, context 15 of 64\n"
        "\n"
        ">   \n"
        "> how are you?\n"
        "Fine.\n"
        "5 tokens, 2.0 tokens/s, context 51 of 64\n"
        "\n"
        "> /exit\n"
    )
    assert llm.asked[1] == "user: hi\nassistant: Hello!\nuser: how are you?\n"


def test_turns_that_the_model_did_not_see_are_told_of() -> None:
    llm = ScriptedLLM(*[say("x")] * 4)
    transcript = talk(llm, "1", "2", "3", "4", context_policy="drop_oldest")
    assert transcript.count("no room for") == 2
    assert "> 3\nthe context has no room for the oldest 2 messages\nx" in transcript
    assert "> 4\nthe context has no room for the oldest 4 messages\nx" in transcript
    assert "no room for" not in talk(ScriptedLLM(*[say("x")] * 4), "1", "2", "3", "4")


def test_regen_asks_again_and_reset_forgets() -> None:
    llm = ScriptedLLM(say("one"), say("two"), say("three"))
    transcript = talk(llm, "hi", "/regen", "/reset", "ho")
    assert llm.asked == ["user: hi\n", "user: hi\n", "user: ho\n"]
    assert "The conversation is forgotten." in transcript


def test_system_is_set_and_shown() -> None:
    llm = ScriptedLLM(say("one"), say("two"))
    transcript = talk(llm, "hi", "/system", "/system be brief", "/system", "ho")
    assert llm.asked == ["user: hi\n", "system: be brief\nuser: ho\n"]
    assert "There is no system text." in transcript
    assert "> /system\nbe brief\n" in transcript


def test_stats() -> None:
    transcript = talk(ScriptedLLM(say("one")), "/stats", "hi", "/stats")
    assert transcript.startswith(
        "> /stats\nanswers: 0, tokens in all: 0\ncontext: 0 of 64 tokens used\n"
    )
    assert transcript.endswith(
        "> /stats\n"
        "answers: 1, tokens in all: 3\n"
        "last answer: 3 tokens at 2.0 tokens/s, "
        "4 prompt tokens (1 more from the cache) at 8.0 tokens/s\n"
        "context: 12 of 64 tokens used\n"
    )


def test_help_lists_every_command() -> None:
    transcript = talk(ScriptedLLM(), "/help")
    for name in ("/help", "/system TEXT", "/reset", "/regen", "/stats", "/exit"):
        assert f"\n  {name}" in transcript


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "unknown command /nope; the commands are /help, /system, /reset, /regen,"),
        ("/regen", "there is no question to ask again"),
    ],
)
def test_errors_are_a_line_and_the_conversation_goes_on(line: str, message: str) -> None:
    transcript = talk(ScriptedLLM(say("still here")), line, "hi")
    assert f"Error: {message}" in transcript
    assert "still here" in transcript


def test_a_refused_question_is_a_line() -> None:
    transcript = talk(ScriptedLLM(QueueFullError("too many requests wait"), say("ok")), "a", "b")
    assert "Error: too many requests wait\n" in transcript
    assert "ok\n" in transcript


def test_a_conversation_beyond_the_context_says_both_numbers_and_the_remedy() -> None:
    transcript = talk(ScriptedLLM(say("one"), ContextLengthError(70, 64)), "hi", "ho")
    assert "70 tokens with this question and the context holds 64: /reset starts over" in (
        transcript.replace("\n", " ")
    )


def test_a_first_question_beyond_the_context_is_not_cured_by_a_reset() -> None:
    transcript = talk(ScriptedLLM(ContextLengthError(70, 64)), "hi").replace("\n", " ")
    assert (
        "70 tokens it exceeds the available context size of 64 tokens: shorten the prompt or load the model"
        in transcript
    )
    assert "/reset" not in transcript


def test_an_answer_that_fills_the_context_says_so() -> None:
    full = Delta(finish_reason=FinishReason.LENGTH, usage=Usage(0, 55))
    transcript = talk(ScriptedLLM([Delta("long"), full]), "hi")
    assert "Error: the context is full, 64 of 64 tokens: /reset starts over" in transcript


def test_an_answer_cut_by_max_tokens_says_so() -> None:
    assert "cut off by --max-tokens" in talk(
        ScriptedLLM(say("long", end=FinishReason.LENGTH)), "hi"
    )


def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    llm = ScriptedLLM(say("half"), say("whole"), hold=True)
    original = llm.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        # As a terminal does it: to the main thread, while it waits for the answer.
        main_thread = threading.main_thread().ident
        threading.Timer(0.1, signal.pthread_kill, [main_thread, signal.SIGINT]).start()
        return original(*args, **kwargs)

    llm.generate = generate  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    transcript = talk(llm, "hi", "again")
    assert signal.getsignal(signal.SIGINT) is before
    assert "half\n" in transcript
    assert transcript.count("stopped; /regen answers again") == 2
    assert llm.asked[1] == "user: hi\nassistant: half\nuser: again\n"


def test_an_impatient_second_ctrl_c_does_not_end_the_program_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Answer, "cancel", lambda answer: None
    )  # the engine is busy with a long step
    main_thread = threading.main_thread().ident
    for delay in (0.1, 0.2):
        threading.Timer(delay, signal.pthread_kill, [main_thread, signal.SIGINT]).start()
    transcript = talk(ScriptedLLM(say("half"), hold=True), "hi", "/stats")
    assert "half\nstopped; /regen answers again\n> /stats\n" in transcript


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "ab\n" in talk(ScriptedLLM(say("a\x1b", "\x07b\r")), "hi")
