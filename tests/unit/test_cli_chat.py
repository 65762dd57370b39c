from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from codellama.cli import clipboard, main
from codellama.cli.attachments import MOST_BYTES, read_file
from codellama.cli.keeper import Keeper
from codellama.cli.questions import own_templates
from codellama.cli.repl import Repl, plain_stream
from codellama.cli.talk import Talk
from codellama.engine.request import Delta, FinishReason, Usage
from codellama.errors import ContextLengthError, DecodeError, QueueFullError, UnsupportedError
from codellama.params import ContextPolicy, SamplingParams
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
    assert (result.exit_code, result.stdout) == (1, "so far\n")
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


def test_files_and_standard_input_are_attached_to_a_question(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.py").write_text("x = 1\r\n")
    Path("notes.md").write_text("```py\ny\n```")
    llm = ScriptedLLM(say("yes"))
    invoke(monkeypatch, llm, "m", "-p", "why?", "-f", "x.py", "-f", "notes.md", stdin="piped\n")
    assert llm.asked == [
        "user: x.py:\n```python\nx = 1\n```\n\n"
        "notes.md:\n````markdown\n```py\ny\n```\n````\n\n"
        "Standard input:\n```\npiped\n```\n\nwhy?\n"
    ]


def test_files_go_with_a_piped_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("x")
    llm = ScriptedLLM(say("yes"))
    invoke(monkeypatch, llm, "m", "-f", str(tmp_path / "x.py"), stdin="why?\n")
    assert llm.asked == [f"user: {tmp_path}/x.py:\n```python\nx\n```\n\nwhy?\n"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff", "is not UTF-8 text"), (b"x" * (MOST_BYTES + 1), "far more than a context holds")],
)
def test_what_cannot_be_attached_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    result = invoke(monkeypatch, ScriptedLLM(), "m", "-p", "a", "-f", str(tmp_path / "x.bin"))
    assert result.exit_code == 1
    assert "x.bin" in result.stderr and words in result.stderr
    at_most = tmp_path / "x.txt"
    at_most.write_bytes(b"x" * MOST_BYTES)
    assert len(read_file(at_most).text) == MOST_BYTES


def test_the_system_text_can_be_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    file.write_text("be brief\n")
    llm = ScriptedLLM(say("yes"))
    invoke(monkeypatch, llm, "m", "-p", "a", "--system-file", str(file))
    assert llm.asked == ["system: be brief\nuser: a\n"]
    both = invoke(monkeypatch, llm, "m", "-p", "a", "--system", "s", "--system-file", str(file))
    assert "give either --system or --system-file" in both.stderr


def test_templates_of_questions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own_templates().mkdir(parents=True)
    (own_templates() / "brief.md").write_text("In one line: ${question} ($5)\n")
    (own_templates() / "fix.md").write_text("Mend it.\n")
    llm = ScriptedLLM(say("1"), say("2"), say("3"))
    invoke(monkeypatch, llm, "m", "--template", "brief", "-p", "why?")
    invoke(monkeypatch, llm, "m", "--template", "fix", stdin="code\n")
    invoke(monkeypatch, llm, "m", "--template", "review", "-p", "Mind the edges.")
    assert llm.asked[0] == "user: In one line: why? ($5)\n"
    assert llm.asked[1] == "user: Standard input:\n```\ncode\n```\n\nMend it.\n"
    assert llm.asked[2].startswith("user: Review this code.")
    assert llm.asked[2].endswith(" Mind the edges.\n")
    wrong = invoke(monkeypatch, llm, "m", "--template", "../fix", "-p", "a")
    assert "there are brief, document, explain, fix, review, tests" in wrong.stderr


# -- on a terminal --------------------------------------------------------------------------------


def talk(
    llm: ScriptedLLM,
    *lines: str,
    context_policy: ContextPolicy | None = None,
    keeper: Keeper | None = None,
) -> str:
    """The transcript of a conversation in which the user types `lines` and leaves. A line `+text` adds to
    what the prompt begins with."""
    file = io.StringIO()
    console = Console(file=file, width=100, highlight=False)
    typed: Iterator[str] = iter(lines)

    def next_line(begun: str = "") -> str:
        try:
            line = next(typed)
        except StopIteration:
            raise EOFError from None
        line = begun + line[1:] if line.startswith("+") else line
        file.write(f"> {line}\n")
        return line

    if keeper is None:
        session = Session(llm, context_policy=context_policy)
    else:
        session = keeper.open_session(llm, None)
    Repl(Talk(session, console, plain_stream, {}, keeper), next_line).run()
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
        "> /stats\nanswers: 0, tokens in all: 0\ncontext: 0 of 64 tokens used\nthreads: 1 (); 0 changes\n"
    )
    assert transcript.endswith(
        "> /stats\n"
        "answers: 1, tokens in all: 3\n"
        "last answer: 3 tokens at 2.0 tokens/s, "
        "4 prompt tokens (1 more from the cache) at 8.0 tokens/s\n"
        "context: 12 of 64 tokens used\n"
        "threads: 1 (); 0 changes\n"
    )


def test_help_lists_every_command() -> None:
    transcript = talk(ScriptedLLM(), "/help")
    for name in ("/help", "/system TEXT", "/reset", "/regen", "/stats", "/file PATH...", "/exit"):
        assert f"\n  {name}" in transcript


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "unknown command /nope; the commands are /help, /file, /edit, /regen, /undo,"),
        ("/undo", "there is no question to ask again"),
        ("/edit", "there is no question to change"),
        ("/file nowhere.py", "nowhere.py cannot be read: No such file or directory"),
        ("/file .", ". is a folder: name the files in it"),
        ("/copy", "there is no answer to copy"),
        ("/write x.py", "the last answer has no code block"),
        ("/write", "it is /write N FILE: N is the number of a code block"),
        ("/save", "it is /save FILE"),
        ("/load nowhere.json", "nowhere.json: No such file or directory"),
        ('/file "a', "No closing quotation"),
        ("/set colour 3", "there is no setting 'colour'; Tab lists them"),
        ("/set temperature warm", "temperature: 'warm' is not a valid float."),
        ("/set top_p 2", "top_p: --top-p must be"),
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


def test_a_later_question_that_is_too_long_by_itself_is_not_cured_by_a_reset() -> None:
    transcript = talk(ScriptedLLM(say("one"), ContextLengthError(90, 64)), "hi", "x" * 70)
    assert "the question alone has 77 tokens and the context holds 64: shorten it" in transcript
    assert "/reset" not in transcript


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


def test_files_are_attached_to_the_next_question(tmp_path: Path) -> None:
    (tmp_path / "x y.py").write_text("x = 1\n")
    path = tmp_path / "x y.py"
    llm = ScriptedLLM(QueueFullError("full"), say("one"), say("two"))
    transcript = talk(llm, f'/file "{path}"', "/file", "why?", "why?", "and?")
    assert f"{path}: 1 lines, 6 tokens, for the next question" in transcript
    assert llm.asked[0] == f"user: {path}:\n```python\nx = 1\n```\n\nwhy?\n"
    assert llm.asked[1].endswith("assistant: one\nuser: and?\n")


CODE = "Two:\n```python\nx = 1\n```\nand\n```\ny\n"


def test_code_blocks_are_counted_and_written(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two"
    lines = (f"/write 1 {one}", f"/write {two}", f"/write 2 {one}", f"/write 3 {one}", "/write a b")
    transcript = talk(ScriptedLLM(say(CODE)), "hi", *lines, f"/write 2 {one} --force")
    assert "2 code blocks (/copy, /write)" in transcript
    assert f"1 lines written to {one}." in transcript
    assert f"{one} exists: --force replaces it" in transcript
    assert "code blocks 1 to 2; got 3" in transcript
    assert "code blocks 1 to 2; got a" in transcript
    assert (one.read_text(), two.read_text()) == ("y\n", "y\n")


def test_copying_goes_through_the_terminal_where_there_is_no_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    assert clipboard.copy("x = 1\n", terminal) == "the terminal"
    assert terminal.getvalue() == "\x1b]52;c;eCA9IDEK\x07"
    with pytest.raises(OSError, match="more than a terminal takes"):
        clipboard.copy("x" * (clipboard.MOST_FOR_THE_TERMINAL + 1), terminal)
    with pytest.raises(OSError, match="no clipboard"):
        clipboard.copy("x", io.StringIO())


def test_copying_uses_the_systems_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "pbcopy"
    program.write_text(f"#!/bin/sh\n/bin/cat > {tmp_path}/clip\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "1 lines copied by pbcopy." in talk(ScriptedLLM(say(CODE)), "hi", "/copy 1")
    assert (tmp_path / "clip").read_text() == "x = 1\n"


def test_settings_are_shown_changed_and_reset() -> None:
    llm = ScriptedLLM(say("1"), say("2"), say("3"))
    transcript = talk(
        *(llm, "/set", "/set temp 0.5", "/set ignore_eos on", "/set", "1"),
        *("/set temperature default", "2", "/set temperature", "/set stop END", "3"),
    )
    assert "Nothing is set" in transcript
    assert "temperature 0.5\nignore_eos True\n" in transcript
    params = [call.params for call in llm.calls]
    assert (params[0].temperature, params[0].ignore_eos) == (0.5, True)
    assert params[1].temperature == SamplingParams().temperature
    assert params[2].stop == ("END",)


def test_saving_and_loading(tmp_path: Path) -> None:
    path = tmp_path / "a talk.json"
    llm = ScriptedLLM(say("1"), say("2"), say("3"))
    transcript = talk(llm, "a", f'/save "{path}"', "/reset", "b", f'/load "{path}"', "c")
    assert "2 messages are loaded." in transcript
    assert llm.asked[2] == "user: a\nassistant: 1\nuser: c\n"


def test_context_and_tokens() -> None:
    transcript = talk(
        ScriptedLLM(say("one")), "/context", "hi", "/context", "/tokens", "/tokens ab"
    )
    assert "> /context\ncontext: 0 of 64 tokens used, 64 left\n" in transcript
    assert "      3 assistant  one\ncontext: 31 of 64 tokens used, 33 left\n" in transcript
    assert "> /tokens ab\n100:'a' 101:'b'\n2 tokens\n" in transcript


@pytest.mark.parametrize("word", ["exit", "quit", "/quit", "/bye"])
def test_words_that_leave(word: str) -> None:
    assert talk(ScriptedLLM(), word, "never asked") == f"> {word}\n"


def test_help_without_a_slash_is_help() -> None:
    assert "/regen" in talk(ScriptedLLM(), "help")


def test_a_path_is_no_command(tmp_path: Path) -> None:
    llm = ScriptedLLM(say("yes"))
    talk(llm, f"{tmp_path} is empty, why?")
    assert len(llm.asked) == 1


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "ab\n" in talk(ScriptedLLM(say("a\x1b", "\x07b\r")), "hi")
