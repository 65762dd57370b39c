"""What Ollama's `/api/tags`, `/api/ps` and `/api/show` tell about the one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codellama.prompts.chat import TurnFormat
from codellama.protocol.body import Fields
from codellama.protocol.errors import Json
from codellama.protocol.ollama_reply import stamp
from codellama.protocol.properties import can_infill

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

API_VERSION = "0.12.6"
"""The version of Ollama whose API these routes follow: clients ask for it to know what they may send."""
NEVER = "2999-12-31T23:59:59Z"
"""When the model will be unloaded."""
LATEST = ":latest"  # what Ollama's clients add to a name

# In Ollama's template language, by which clients see whether a model infills and may call functions.
_INFILL = "<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>"
_TOOLS = "{{ if .Tools }}{{ .Tools }}{{ end }}"
_TURNS = (
    "{{ range .Messages }}Source: {{ .Role }}\n\n {{ .Content }}<step>{{ end }}"
    "Source: assistant\nDestination: user\n\n "
)
_INST = "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]"


class ShowRequest(Fields):
    """The body of `/api/show`; `verbose` adds the long lists of the file's header."""

    aliases = {"name": "model"}
    no_effect = frozenset({"system", "template", "options"})
    ignored = {}
    neutral = {}

    model: str
    verbose: bool = False


@dataclass(frozen=True)
class ModelFile:
    """What is known of the model's file: when it changed (seconds since 1970), its SHA-256 ("" if nobody
    has noted it), the name of its quantization."""

    modified: float
    sha256: str
    quantization: str


def is_named(llm: LanguageModel, name: str) -> bool:
    """Whether `name` is the model's."""
    return name in (llm.name, llm.name + LATEST)


def tags_json(llm: LanguageModel, file: ModelFile) -> Json:
    """The body of `/api/tags`."""
    modified = {"modified_at": stamp(file.modified)}
    size = {"size": llm.plan.model.weight_bytes}
    return {"models": [_entry(llm, file) | modified | size]}


def ps_json(llm: LanguageModel, file: ModelFile) -> Json:
    """The body of `/api/ps`; sizes are in bytes."""
    placements = llm.plan.model.placements
    loaded = {
        "size": sum(p.nbytes for p in placements),
        "size_vram": sum(p.nbytes for p in placements[:-1]),
        "expires_at": NEVER,
        "context_length": llm.n_ctx,
    }
    return {"models": [_entry(llm, file) | loaded]}


def show_json(llm: LanguageModel, file: ModelFile, *, tools: bool, verbose: bool) -> Json:
    """The body of `/api/show`; `tools` says that chats may offer functions."""
    infills = can_infill(llm)
    tools = tools and llm.chat_format is not None
    capabilities = {
        "completion": True,
        "tools": tools,
        "insert": infills,
        "embedding": llm.config.embeddings,
    }
    return {
        "modelfile": f"FROM {llm.plan.model.path.name}\n",
        "parameters": f"num_ctx {llm.n_ctx}",
        "template": _template(llm, infills, tools),
        "license": str(llm.metadata.get("general.license", "")),
        "details": _details(llm, file),
        "model_info": _model_info(llm.metadata, verbose),
        "capabilities": [name for name, has in capabilities.items() if has],
        "modified_at": stamp(file.modified),
    }


def _entry(llm: LanguageModel, file: ModelFile) -> Json:
    return {
        "name": llm.name,
        "model": llm.name,
        "digest": file.sha256,
        "details": _details(llm, file),
    }


def _details(llm: LanguageModel, file: ModelFile) -> Json:
    n_params = llm.plan.model.n_params
    in_units = f"{n_params / 1e9:.1f}B" if n_params >= 1e8 else f"{n_params / 1e6:.1f}M"
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": in_units,
        "quantization_level": file.quantization,
    }


def _model_info(metadata: Mapping[str, Any], verbose: bool) -> Json:
    """The file's header; lists are left out unless somebody wants them."""
    return {
        name: None if isinstance(value, (list, tuple)) and not verbose else value
        for name, value in metadata.items()
    }


def _template(llm: LanguageModel, infills: bool, tools: bool) -> str:
    plain = "{{ .Prompt }}"
    if llm.chat_format is not None:
        plain = _TURNS if isinstance(llm.chat_format, TurnFormat) else _INST
    if tools:
        plain = _TOOLS + plain
    return f"{{{{ if .Suffix }}}}{_INFILL}{{{{ else }}}}{plain}{{{{ end }}}}" if infills else plain
