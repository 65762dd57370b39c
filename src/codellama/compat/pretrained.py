"""`from_pretrained` as in `llama_cpp.Llama`: a model by the name of its repository on the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from typing_extensions import Self, Unpack

from codellama.errors import InvalidRequestError
from codellama.models import HubName, obtain
from codellama.params import Progress
from codellama.params.options import ModelOptions


class FromPretrained:
    """For a class whose `__init__` takes a path, `progress` and the fields of `ModelConfig`."""

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        *,
        revision: str | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
        **config: Unpack[ModelOptions],
    ) -> Self:
        """Load a GGUF of a repository on the Hugging Face hub, fetched first if it is not here.

        ::

            LLM.from_pretrained("TheBloke/CodeLlama-70B-Instruct-GGUF", "Q4_K_M", n_ctx=4096)

        `filename` is a type, a file's name, or one with `*` in it; by default Q4_K_M, or the only file.
        It is looked for in the models folder, the hub's cache and LM Studio's folder, and fetched into
        the models folder or `local_dir`; a `revision` (branch, tag or commit) is always asked for at the
        hub. `progress` gets bytes done and in all, of the download and then of the load.

        Raises CheckpointError if the repository has no such file or cannot be reached, ConversionError if
        the disk is too small, and what `LLM` raises.
        """
        name = HubName.parse(repo_id)
        if name is None or name.tag is not None:
            raise InvalidRequestError(
                "{param} must be ORGANISATION/NAME; got {repo!r}", "repo_id", repo=repo_id
            )
        folder = None if local_dir is None else Path(local_dir)
        path = obtain(
            HubName(name.repo, filename), revision=revision, folder=folder, progress=progress
        )
        make: Any = cls
        made: Self = make(path, progress=progress, **config)
        return made
