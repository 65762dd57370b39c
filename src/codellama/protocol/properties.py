"""What llama-server's `/props` and `/slots` tell: the model, how it answers by default, and what runs.

Shapes as in llama.cpp's tools/server (server-context.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from codellama.compat.replies import Json
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.params import SamplingOptions, SamplingParams
from codellama.protocol.body import Fields
from codellama.protocol.limits import FILE_NAME_CHARS
from codellama.protocol.llama_server import generation_settings

if TYPE_CHECKING:
    from codellama.engine.status import SlotStatus
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel

_FILE_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._ -]*[A-Za-z0-9_-])?")


def props_json(llm: LanguageModel, sampling: SamplingOptions, tools: bool) -> Json:
    """The model and the defaults of requests; `tools` says whether functions are offered to the model."""
    params = SamplingParams.of(**sampling).with_defaults(llm.config)
    tokenizer, chats = llm.tokenizer, llm.chat_format is not None
    return {
        "default_generation_settings": {
            "params": generation_settings(params, stream=True),
            "n_ctx": llm.n_ctx,
        },
        "total_slots": llm.config.n_seq_max,
        "model_alias": llm.name,
        "model_path": str(llm.path),
        "modalities": {"vision": False, "video": False, "audio": False},
        "chat_template": str(llm.metadata.get("tokenizer.chat_template") or ""),
        "chat_template_caps": {
            "supports_system_role": chats,
            "supports_tools": chats and tools,
            "supports_tool_calls": chats and tools,
            "supports_parallel_tool_calls": chats and tools,
        },
        "capabilities": {"chat": chats, "infill": can_infill(llm)},
        "bos_token": tokenizer.token_text(tokenizer.bos),
        "eos_token": tokenizer.token_text(tokenizer.eos),
        "plan": llm.plan.to_json(),
        "build_info": f"codellama-{version('codellama-runtime')}",
    }


def can_infill(llm: LanguageModel) -> bool:
    """Whether the model fills gaps."""
    try:
        llm.infill_prompt("", "")
    except UnsupportedError:
        return False
    return True


def slots_json(
    slots: Sequence[SlotStatus], running: Iterable[Completion], n_ctx: int, guesses: bool
) -> list[Json]:
    """An entry for each slot; one that is working tells of its request, of `running` ones its parameters.

    `guesses` says whether tokens are guessed ahead.
    """
    params = {task: completion.params for completion in running for task in completion.tasks}
    return [_slot_json(slot, params, n_ctx, guesses) for slot in slots]


def _slot_json(
    slot: SlotStatus, params: Mapping[int, SamplingParams], n_ctx: int, guesses: bool
) -> Json:
    body: Json = {
        "id": slot.id,
        "n_ctx": n_ctx,
        "speculative": guesses,
        "is_processing": slot.task is not None,
    }
    if slot.task is None:
        return body
    if slot.task in params:
        body["params"] = generation_settings(params[slot.task], stream=False)
    return body | {
        "id_task": slot.task,
        "n_prompt_tokens": len(slot.tokens),
        "n_prompt_tokens_processed": slot.n_processed,
        "n_prompt_tokens_cache": slot.n_cached,
        "next_token": [
            {
                "has_next_token": True,
                "n_remain": slot.n_remaining,
                "n_decoded": slot.n_decoded,
            }
        ],
    }


class SlotFile(Fields):
    """The body of `/slots/N?action=save` and `action=restore`: the name of a file in the server's folder."""

    filename: str = Field(max_length=FILE_NAME_CHARS)

    def within(self, folder: Path) -> Path:
        """The file in `folder`. Raises InvalidRequestError for a name that may lead elsewhere."""
        if not _FILE_NAME.fullmatch(self.filename):
            raise InvalidRequestError(
                "{param} may hold letters, digits, spaces and . _ -, begin with a letter, a digit or _, "
                "and not end with a space or a dot",
                "filename",
            )
        return folder / self.filename


def moved_json(id_slot: int, path: Path, n_tokens: int, elapsed_ms: float, *, saved: bool) -> Json:
    """What became of a slot that was saved, or else restored: tokens, bytes of the file and time."""
    counts = (
        ("n_saved", "n_written", "save_ms") if saved else ("n_restored", "n_read", "restore_ms")
    )
    return {
        "id_slot": id_slot,
        "filename": path.name,
        counts[0]: n_tokens,
        counts[1]: path.stat().st_size,
        "timings": {counts[2]: elapsed_ms},
    }
