"""Reading what the user types: several lines, history, paste, completion.

Enter sends. Alt-Enter, a backslash at the end of the line, or a block in triple quotes goes on in the next
line; a paste may hold any number of lines, and quotes in it are text. Ctrl-X Ctrl-E opens an editor. Ctrl-C
drops the line, which the history keeps; a second one or Ctrl-D leaves (EOFError).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import Output
from prompt_toolkit.shortcuts import CompleteStyle, print_formatted_text

from codellama.cli.folders import state_folder
from codellama.cli.options import COMMAND_LINE
from codellama.cli.slash import Command
from codellama.params import SamplingOptions

QUOTES = '"""'
LEAVE_HINT = "(Ctrl-C again or Ctrl-D leaves)"
BLOCK_HINT = 'A block: """ at the end of a line and Enter send it, Ctrl-C drops it.'


class PromptReader:
    """Reads one message per call. `commands` are completed by Tab, and what they take."""

    def __init__(
        self,
        history: History,
        commands: Mapping[str, Command],
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._output = output
        self._pasted = False
        self._session: PromptSession[str] = PromptSession(
            [("bold fg:ansigreen", "> ")],
            multiline=True,
            prompt_continuation="  ",
            history=history,
            key_bindings=self._key_bindings(),
            completer=CommandCompleter(commands),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            bottom_toolbar=lambda: BLOCK_HINT if self._in_block() else None,
            input=input,
            output=output,
        )

    def __call__(self, begun: str = "") -> str:
        """The next message, which begins as `begun`; EOFError when the user leaves."""
        try:
            return self._read(begun)
        except KeyboardInterrupt:
            print_formatted_text(LEAVE_HINT, output=self._output)
        try:
            return self._read("")
        except KeyboardInterrupt:
            raise EOFError from None

    def _read(self, begun: str) -> str:
        self._pasted = False
        return message_of(self._session.prompt(default=begun))

    def _in_block(self) -> bool:
        return not self._pasted and in_open_block(self._session.default_buffer.text)

    def _key_bindings(self) -> KeyBindings:
        """Enter, Alt-Enter and pasting as described above."""
        bindings = KeyBindings()

        @bindings.add("enter")
        def _send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.document.text_before_cursor.endswith("\\"):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            elif self._in_block():
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @bindings.add("c-c")
        def _drop(event: KeyPressEvent) -> None:
            if event.current_buffer.text.strip():
                event.current_buffer.append_to_history()
            event.app.exit(exception=KeyboardInterrupt)

        @bindings.add("escape", "enter")
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bindings.add(Keys.BracketedPaste)
        def _paste(event: KeyPressEvent) -> None:
            self._pasted = True
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            event.current_buffer.insert_text(text)

        return bindings


class CommandCompleter(Completer):
    """Completes a command at the beginning of the message, and the files or settings behind it."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """What the text before the cursor may go on with."""
        before = document.text_before_cursor
        name, blank, rest = before.partition(" ")
        if not name.startswith("/") or "\n" in before:
            return
        if not blank:
            yield from _beginning([*self._commands, "/exit"], name)
            return
        command = self._commands.get(name)
        word = rest.rpartition(" ")[2]
        if command is not None and command.completes == "files":
            yield from self._paths.get_completions(Document(word), complete_event)
        elif command is not None and command.completes == "settings":
            names = [n for n in COMMAND_LINE if n in SamplingOptions.__annotations__]
            yield from _beginning(names, rest)


def _beginning(words: Iterable[str], begun: str) -> Iterable[Completion]:
    return [Completion(word, -len(begun)) for word in words if word.startswith(begun)]


def in_open_block(text: str) -> bool:
    """Whether the text begins a triple-quoted block that has not ended."""
    text = text.strip()
    return text.startswith(QUOTES) and text.count(QUOTES) % 2 == 1


def message_of(text: str) -> str:
    """The message without surrounding space and without the quotes of a block that is all of it."""
    text = text.strip()
    if text.startswith(QUOTES) and text.endswith(QUOTES) and text.count(QUOTES) == 2:
        return text[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text


def open_history() -> History:
    """The chat history in the user's state folder; in memory only where that cannot be written."""
    path = state_folder() / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.open("a").close()
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
