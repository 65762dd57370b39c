"""Messages → token ids, exactly as Meta's reference code (llama/generation.py) makes them.

`TurnFormat` is the format of 70B Instruct, `InstFormat` that of 7B, 13B and 34B Instruct. Both tokenize
turn by turn and put control tokens in by id: what a user typed never becomes one. Role order, unknown
roles and empty dialogs are errors that name the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from codellama.errors import ChatFormatError, UnsupportedError, is_encodable
from codellama.params import Message, Prompt, SpecialTags, Tools
from codellama.prompts.tools import checked_calls, plain_turns, with_tools
from codellama.variants import STEP

SPECIAL_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", STEP)
"""What Meta's code refuses in message contents, in both formats."""

FIM_TAGS = ("<PRE>", "<SUF>", "<MID>", "<EOT>")
"""Ordinary merges in the 7B/13B vocabularies: typed text reaches their ids without any parsing."""

END_OF_INFILL = "▁" + FIM_TAGS[-1]
"""The vocabulary's name of the token that ends an infilled text."""

ROLES = ("system", "user", "assistant")


class Vocabulary(Protocol):
    """What the formats need of a tokenizer.

    `add_space_prefix` tells whether `encode` puts a space before a text; with `raw` it does not.
    Control tokens are never parsed out of the text.
    """

    @property
    def bos(self) -> int:
        """Begin of sequence."""

    @property
    def eos(self) -> int:
        """End of sequence."""

    @property
    def add_space_prefix(self) -> bool:
        """Whether a text gets a space put before it."""

    def encode(self, text: str, *, raw: bool = False) -> list[int]:
        """Token ids of plain text."""

    def token_id(self, text: str) -> int | None:
        """The id of a vocabulary entry."""


class ChatFormat(Protocol):
    """Messages to a prompt; `name` is "turn" or "inst"."""

    name: str

    def encode(self, messages: Iterable[Message], tools: Tools | None = None) -> Prompt:
        """The prompt that invites the assistant's answer, with what it may call. Raises ChatFormatError."""

    def render(self, messages: Iterable[Message], tools: Tools | None = None) -> str:
        """The same prompt as one text, control tokens by their names.

        Tokenized with these parsed, it gives the same ids, unless a message holds such a name itself.
        """


class TurnFormat:
    """70B Instruct: each turn is `Source: role`, a blank line, a space and the text, then `<step>`.

    The system turn is inserted empty when it is missing. The card's 49 ids are the reference.
    """

    name = "turn"

    def __init__(self, vocabulary: Vocabulary, special_tags: SpecialTags = "literal") -> None:
        """Raises UnsupportedError if the vocabulary has no `<step>`."""
        step = vocabulary.token_id(STEP)
        if step is None:
            raise UnsupportedError(f"the model has no {STEP} token: it has no turn format")
        self.step = step
        self._vocabulary = vocabulary
        self._policy = special_tags
        self._tags = live_tags(vocabulary)

    def encode(self, messages: Iterable[Message], tools: Tools | None = None) -> Prompt:
        """BOS, every turn with the id of `<step>` behind it, and the head of the assistant's turn, with what
        it has begun to say."""
        turns, begun = self._turns(messages, tools)
        tokens = [self._vocabulary.bos]
        for turn in turns:
            tokens += self.encode_turn(turn)
        body = split_tags(begun, self._tags)
        head = self._head("assistant", "user") + "\n\n "
        tokens += self._encode([head + body[0], *body[1:]])
        stop = frozenset({self.step})
        return Prompt(tuple(tokens), stop, drop_leading_space=not begun, tools=tools)

    def encode_turn(self, message: Message) -> list[int]:
        """The ids of one finished turn, `<step>` included. Empty content has no body at all."""
        parts = [self._head(message["role"], message.get("destination"))]
        if message["content"]:
            body = split_tags(message["content"].strip(), self._tags)
            parts = [f"{parts[0]}\n\n {body[0]}", *body[1:]]
        return [*self._encode(parts), self.step]

    def _encode(self, parts: list[str]) -> list[int]:
        # Meta encodes " Source: ..." with a vocabulary that implies no space.
        if not self._vocabulary.add_space_prefix:
            parts = [" " + parts[0], *parts[1:]]
        return encode_parts(self._vocabulary, parts)

    @staticmethod
    def _head(role: str, destination: str | None) -> str:
        return f"Source: {role}" + (f"\nDestination: {destination.strip()}" if destination else "")

    def _turns(self, messages: Iterable[Message], tools: Tools | None) -> tuple[list[Message], str]:
        """The finished turns, and what the assistant has begun to say."""
        turns = check_messages(messages, self._policy, tools)
        if turns[0]["role"] != "system":
            turns.insert(0, Message(role="system", content=""))
        begun = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
        return turns, begun

    def render(self, messages: Iterable[Message], tools: Tools | None = None) -> str:
        """The prompt's text with `<s>` and `<step>` spelled out."""
        text = "<s>"
        space = "" if self._vocabulary.add_space_prefix else " "
        turns, begun = self._turns(messages, tools)
        for turn in turns:
            text += space + self._head(turn["role"], turn.get("destination"))
            text += f"\n\n {turn['content'].strip()}" if turn["content"] else ""
            text += STEP
        return text + space + self._head("assistant", "user") + "\n\n " + begun


class InstFormat:
    """7B, 13B and 34B Instruct: `[INST] user [/INST] assistant`, the system text inside the first user
    turn. Every pair stands between BOS and EOS."""

    name = "inst"

    def __init__(self, vocabulary: Vocabulary, special_tags: SpecialTags = "literal") -> None:
        self._vocabulary = vocabulary
        self._policy = special_tags
        # Here the tags are ordinary text, so a user's own must be kept apart from ours.
        self._tags = tuple(dict.fromkeys((*SPECIAL_TAGS[:4], *live_tags(vocabulary))))

    def encode(self, messages: Iterable[Message], tools: Tools | None = None) -> Prompt:
        """The ids of all pairs and of the last user turn, with what the assistant has begun to say."""
        tokens: list[int] = []
        pairs, begun = self._pairs(messages, tools)
        for user, answer in pairs:
            tokens.append(self._vocabulary.bos)
            parts = ["[INST] " + user[0], *user[1:]]
            parts[-1] += " [/INST]"
            if answer is not None:
                reply = split_tags(answer.strip(), self._tags)
                parts = [*parts[:-1], f"{parts[-1]} {reply[0]}", *reply[1:]]
                parts[-1] += " "
            elif begun:
                body = split_tags(begun, self._tags)
                parts = [*parts[:-1], f"{parts[-1]} {body[0]}", *body[1:]]
            tokens += encode_parts(self._vocabulary, parts)
            if answer is not None:
                tokens.append(self._vocabulary.eos)
        stop = frozenset({self._vocabulary.eos})
        return Prompt(tuple(tokens), stop, drop_leading_space=not begun, tools=tools)

    def _pairs(
        self, messages: Iterable[Message], tools: Tools | None
    ) -> tuple[list[tuple[list[str], str | None]], str]:
        """(user text in parts, answer) per pair, the last answer is None; and what the assistant has begun
        to say."""
        turns = check_messages(messages, self._policy, tools)
        begun = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
        pairs: list[tuple[list[str], str | None]] = []
        for i in range(0, len(turns), 2):
            user = split_tags(turns[i]["content"], self._tags)
            if i == 0 and system is not None:
                inner = split_tags(system, self._tags)
                head = [f"<<SYS>>\n{inner[0]}", *inner[1:]]
                user = [*head[:-1], f"{head[-1]}\n<</SYS>>\n\n{user[0]}", *user[1:]]
            user[0] = user[0].lstrip()
            user[-1] = user[-1].rstrip()
            pairs.append((user, turns[i + 1]["content"] if i + 1 < len(turns) else None))
        return pairs, begun

    def render(self, messages: Iterable[Message], tools: Tools | None = None) -> str:
        """The prompt's text with `<s>` and `</s>` spelled out."""
        text = ""
        pairs, begun = self._pairs(messages, tools)
        for user, answer in pairs:
            text += f"<s>[INST] {''.join(user)} [/INST]"
            text += f" {answer.strip()} </s>" if answer is not None else ""
        return f"{text} {begun}" if begun else text


def check_messages(
    messages: Iterable[Message], policy: SpecialTags, tools: Tools | None = None
) -> list[Message]:
    """A checked copy: an optional system turn, then user and assistant in turn.

    If the assistant's turn is the last one, it is to go on with it. Calls and their results are text in
    it, and the system turn speaks of `tools`. Raises ChatFormatError, naming the message by its index.
    """
    if isinstance(messages, (str, bytes, Mapping)):
        raise ChatFormatError("{param} must be a list of messages with role and content")
    checked = [_checked(i, message, policy) for i, message in enumerate(messages)]
    if not checked:
        raise ChatFormatError("{param} is empty: give at least one user message")
    turns = plain_turns(checked)
    first = 1 if turns[0][1]["role"] == "system" else 0
    for n, (i, turn) in enumerate(turns[first:]):
        expected = ROLES[1 + n % 2]
        if turn["role"] != expected:
            raise ChatFormatError(
                "{param}[{i}]: expected the role {expected}, got {role}; after an optional "
                "system message, user and assistant take turns",
                i=i,
                expected=expected,
                role=turn["role"],
            )
    i, last = turns[-1]
    if last["role"] == "system":
        raise ChatFormatError("{param}[{i}]: the last message must not be the system's", i=i)
    if checked[-1].get("tool_calls"):
        raise ChatFormatError(
            "{param}[{i}]: an assistant's message that calls functions cannot be continued; the next "
            "message must be the result of a call",
            i=i,
        )
    return with_tools([turn for _, turn in turns], tools)


def _checked(i: int, message: Any, policy: SpecialTags) -> Message:
    if not isinstance(message, Mapping):
        raise ChatFormatError(
            "{param}[{i}] must have role and content, got {message!r:.80}", i=i, message=message
        )
    unknown = set(message) - {"role", "content", "destination", "tool_calls", "tool_call_id"}
    if unknown:
        raise ChatFormatError("{param}[{i}]: unknown field {name!r}", i=i, name=min(unknown))
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role.strip() not in (*ROLES, "tool"):
        raise ChatFormatError(
            "{param}[{i}]: role must be one of {roles}; got {role!r}",
            i=i,
            roles=", ".join((*ROLES, "tool")),
            role=role,
        )
    if not isinstance(content, str):
        raise ChatFormatError(
            "{param}[{i}]: content must be text, got {kind}; the model reads text only",
            i=i,
            kind=type(content).__name__,
        )
    if policy == "reject":
        reject_tags(content, SPECIAL_TAGS, "messages", f"[{i}]")
    checked = Message(role=role.strip(), content=content)
    destination = message.get("destination")
    if destination is not None:
        if not isinstance(destination, str) or "\n" in destination.strip():
            raise ChatFormatError("{param}[{i}]: destination must be one line of text", i=i)
        checked["destination"] = destination
    _take_calls(i, message, checked)
    _check_texts(i, checked)
    if policy == "reject":
        for call in checked.get("tool_calls", ()):
            reject_tags(call.name + call.arguments, SPECIAL_TAGS, "messages", f"[{i}]")
    return checked


def _check_texts(i: int, message: Message) -> None:
    calls = message.get("tool_calls", ())
    said = (message["content"], message.get("destination", ""))
    for text in (*said, *(text for call in calls for text in (call.name, call.arguments))):
        if not is_encodable(text):
            raise ChatFormatError(
                "{param}[{i}] holds half of a surrogate pair, which is no character",
                remedy="send the whole character, or leave it out",
                i=i,
            )


def _take_calls(i: int, message: Mapping[str, Any], checked: Message) -> None:
    """Put the calls of an assistant's message, or the id that a result belongs to, into `checked`."""
    calls, called = message.get("tool_calls"), message.get("tool_call_id")
    role = checked["role"]
    if calls:
        if role != "assistant":
            raise ChatFormatError("{param}[{i}]: only an assistant's message has tool_calls", i=i)
        checked["tool_calls"] = checked_calls(i, calls)
    if role == "tool":
        if not isinstance(called, str):
            raise ChatFormatError(
                "{param}[{i}]: a message of the role tool needs a tool_call_id", i=i
            )
        checked["tool_call_id"] = called
    elif called is not None:
        raise ChatFormatError(
            "{param}[{i}]: only a message of the role tool has a tool_call_id", i=i
        )


def reject_tags(text: str, tags: Sequence[str], param: str, place: str = "") -> None:
    """Raise ChatFormatError if `text`, at `place` in `param`, has one of the tags, as Meta's code does."""
    for tag in tags:
        if tag in text:
            raise ChatFormatError(
                "{param}{place}: the special tag {tag} is not allowed in the text",
                param,
                place=place,
                tag=tag,
            )


def live_tags(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The tags that this vocabulary turns into ids of their own when they merely occur in a text."""
    live = []
    for tag in (STEP, *FIM_TAGS, "<s>", "</s>", "<unk>"):
        ids = {vocabulary.token_id(tag), vocabulary.token_id("▁" + tag)} - {None}
        typed = {*vocabulary.encode(tag, raw=True), *vocabulary.encode(" " + tag, raw=True)}
        if ids & typed:
            live.append(tag)
    return tuple(live)


def split_tags(text: str, tags: Sequence[str]) -> list[str]:
    """`text` cut in the middle of every tag, so that tokenizing the parts cannot yield the tag."""
    if not any(tag in text for tag in tags):
        return [text]
    parts, start = [], 0
    for match in re.finditer("|".join(map(re.escape, tags)), text):
        middle = match.start() + len(match[0]) // 2
        parts.append(text[start:middle])
        start = middle
    return [*parts, text[start:]]


def encode_parts(vocabulary: Vocabulary, parts: Sequence[str]) -> list[int]:
    """The ids of parts that follow each other without a space between them."""
    tokens = vocabulary.encode(parts[0])
    for part in parts[1:]:
        tokens += vocabulary.encode(part, raw=True)
    return tokens
