"""Names of repositories on the Hugging Face hub, with a type or a file behind a colon."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

DEFAULT_TYPE = "Q4_K_M"

_HOSTS = ("https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/")
_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.*-]+))?", re.ASCII)


@dataclass(frozen=True)
class HubName:
    """`repo` is ORGANISATION/NAME; `tag` a type such as Q4_K_M, a file's name, or one with `*`."""

    repo: str
    tag: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """`ORG/NAME`, `ORG/NAME:TAG`, with `hf.co/` before them or not; None for anything else."""
        for host in _HOSTS:
            text = text.removeprefix(host)
        found = _NAME.fullmatch(text)
        if found is None or text.startswith((".", "-")):
            return None
        return cls(found[1], found[2])

    def means(self, file: str) -> bool:
        """Whether the tag names this file of the repository; without one any file does."""
        return self.tag is None or matches(self.tag, file)

    def __str__(self) -> str:
        return self.repo if self.tag is None else f"{self.repo}:{self.tag}"


def matches(tag: str, file: str) -> bool:
    """Whether `tag` is this file, a pattern of it, or the type in its name: Q4_K is not Q4_K_M."""
    base = file.rpartition("/")[2].lower()
    tag = tag.lower()
    if tag.endswith(".gguf") or "*" in tag:
        return fnmatch.fnmatchcase(base, tag)
    return re.search(rf"(?:^|[.\-_]){re.escape(tag)}(?:$|[.-])", base) is not None
