"""The clients that are tried: where each comes from, in which version, and which trial is made with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["python", "npm", "git", "bodies"]
LLAMA_SERVER_PORT = 8080


@dataclass(frozen=True)
class Client:
    """A row of the table. `packages` are what its environment is made of: of PyPI, of npm, or a repository
    and a commit. `port` is the only one that it asks, if there is such."""

    name: str
    kind: Kind
    trial: str
    packages: tuple[str, ...] = ()
    port: int = 0

    @property
    def version(self) -> str:
        """What is tried, as the table says it."""
        first = self.packages[0] if self.packages else ""
        if self.kind == "git":
            return self.packages[1][:7]
        return first.rpartition("@" if self.kind == "npm" else "==")[2]


OPENAI_LIKE = ("llama-index-llms-openai-like==0.8.1",)
LLM = ("llm==0.36", "llm-llama-server==0.2", "llm-anthropic==0.30", "llm-ollama==0.19.1")
VIM = ("https://github.com/ggml-org/llama.vim", "a1c8e6e40cb45df59b78add5b65d575386832465")

CLIENTS = (
    Client("openai-3", "python", "openai_sdk", ("openai==3.57.0",)),
    Client("openai-2", "python", "openai_sdk", ("openai==2.54.0",)),
    Client("openai-1", "python", "openai_sdk", ("openai==1.109.1",)),
    Client("openai-npm-7", "npm", "openai_npm", ("openai@7.59.0", "zod@4.6.7")),
    Client("openai-npm-6", "npm", "openai_npm", ("openai@6.49.0", "zod@4.6.7")),
    Client("anthropic", "python", "anthropic_sdk", ("anthropic==2.14.0",)),
    Client("ollama", "python", "ollama_sdk", ("ollama==0.6.3",)),
    Client("llm", "python", "llm_tool", LLM, LLAMA_SERVER_PORT),
    Client("litellm", "python", "litellm_sdk", ("litellm==1.110.2",)),
    Client("aider", "python", "aider_edit", ("aider-chat==0.86.2",)),
    Client("instructor", "python", "instructor_modes", ("instructor==1.17.0",)),
    Client("langchain-openai", "python", "langchain_models", ("langchain-openai==1.7.4",)),
    Client(
        "langchain-js",
        "npm",
        "langchain_js",
        ("@langchain/openai@1.6.0", "@langchain/core@1.4.0", "zod@4.6.7"),
    ),
    Client("llama-index", "python", "llama_index_models", OPENAI_LIKE),
    Client("pydantic-ai", "python", "pydantic_ai_agents", ("pydantic-ai-slim[openai]==2.68.0",)),
    Client(
        "vercel-ai",
        "npm",
        "vercel_ai",
        ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "zod@4.6.7"),
    ),
    Client("lm-eval", "python", "lm_eval_tasks", ("lm-eval[api]==0.4.13",)),
    Client("open-webui", "python", "open_webui_backend", ("open-webui==0.12.4",)),
    Client("llama.vim", "git", "llama_vim", VIM),
    Client("llama.vscode, Continue", "bodies", "editor_bodies"),
)
