"""A model for lm-evaluation-harness that runs in its process: batches, and beginnings that are shared.

`codellama quality tasks` uses it. The harness's own command takes it too, once it has been registered, which
importing this module does under the name `codellama`. lm-eval 0.4.13 looks for no models in other packages:
it has no entry points, and `--include_path` is for tasks. So `python -m codellama.quality.harness run --model
codellama --model_args path=FILE ...` is its command line with this model in it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# First: the harness reads the list of its own models only while nothing is registered.
import lm_eval.models  # noqa: F401
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm, trange

from codellama.devices.machine import this_machine
from codellama.devices.planner import plan_load
from codellama.errors import InvalidRequestError
from codellama.files.loadable import read_model
from codellama.llm import LLM
from codellama.params import ModelConfig
from codellama.quality.choices import ROWS, SEQUENCES, ChoiceScorer, Likelihood, Question
from codellama.quality.vocabulary import open_vocabulary

AT_ONCE = 8
"""Answers that are written at the same time."""

MOST_ANSWERS = SEQUENCES // 2
"""To a question that is decoded once; more are asked in several parts."""

logger = logging.getLogger(__name__)

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""A context and what may follow it."""

Request = tuple[tuple[str, str], list[int], list[int]]
"""The harness's: context and continuation as texts and as token ids."""


@register_model("codellama")
class HarnessModel(TemplateLM):  # type: ignore[misc] # the harness has no types
    """A GGUF at `path`; `max_length` is its context in tokens, by default what the model was trained for.

    `config` are fields of `ModelConfig`. Close it to free the model.
    """

    def __init__(self, path: str, max_length: int | None = None, **config: Any) -> None:
        """Raises ModelLoadError, and InvalidRequestError for a bad setting; weights are read when needed."""
        super().__init__()
        for given in ("batch_size", "max_batch_size", "device"):  # to every model, by the harness
            config.pop(given, None)
        self._path = Path(path)
        self._config: dict[str, Any] = {"n_seq_max": AT_ONCE, **config, "n_ctx": max_length}
        settings = ModelConfig.of(**self._config)
        self._plan = plan_load(read_model(self._path), settings, this_machine())
        self.max_length = self._plan.n_ctx
        self._undo, self._loaded = ExitStack(), ExitStack()
        self._tokenizer = open_vocabulary(self._plan.model, self._undo)
        self._scorer: ChoiceScorer | None = None
        self._llm: LLM | None = None

    # -- what the harness asks ----------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._tokenizer.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self._tokenizer.bos

    @property
    def tokenizer_name(self) -> str:
        """Tells the harness's caches of requests one vocabulary from another."""
        return self._path.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **more: Any
    ) -> list[int]:
        """The ids of a text, with BOS unless that is not wanted."""
        return self._tokenizer.encode(string, add_bos=add_special_tokens is not False)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **more: Any
    ) -> list[Likelihood]:
        pairs = [self._cut(context, answer) for _, context, answer in requests]
        asked: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, (context, _) in enumerate(pairs):
            asked[context].append(place)
        groups = [
            (context, part) for context, places in asked.items() for part in _parts(places, pairs)
        ]
        questions = [
            Question(context, tuple(pairs[place][1] for place in places))
            for context, places in groups
        ]
        found: list[Likelihood] = [(0.0, False)] * len(requests)
        with tqdm(total=len(questions), disable=disable_tqdm, desc="Questions") as bar:
            scored = self._scoring().score(questions, lambda done, _: bar.update(done - bar.n))
        for (_, places), likelihoods in zip(groups, scored, strict=True):
            for place, likelihood in zip(places, likelihoods, strict=True):
                found[place] = likelihood
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log probability of each whole text, in windows of the context."""
        found = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            scored = self._loglikelihood_tokens(
                [(("", text), *pair) for pair in pairs], disable_tqdm=True
            )
            found.append(sum(value for value, _ in scored))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to each prompt, up to the first of its stops."""
        llm = self._writing()
        found: list[str] = []
        for first in trange(0, len(requests), AT_ONCE, disable=disable_tqdm, desc="Answers"):
            running = [
                llm.complete(*self._prompt(*request.args), **_sampling(request.args[1]))
                for request in requests[first : first + AT_ONCE]
            ]
            found += [completion.text() for completion in running]
        return found

    # -- what is loaded: one or the other, so that a GPU holds one -----------------------------

    def _scoring(self) -> ChoiceScorer:
        if self._scorer is None:
            self._unload()
            self._scorer = ChoiceScorer(self._plan.model, self.max_length, self._loaded)
        return self._scorer

    def _writing(self) -> LLM:
        if self._llm is None:
            self._unload()
            self._llm = self._loaded.enter_context(LLM(self._path, **self._config))
        return self._llm

    def _unload(self) -> None:
        self._loaded.close()
        self._scorer = self._llm = None

    def close(self) -> None:
        """Free what has been loaded."""
        self._unload()
        self._undo.close()

    # -- prompts ------------------------------------------------------------------------------

    def _cut(self, context: Sequence[int], answer: Sequence[int]) -> Pair:
        """A pair that fits the context: as the harness's own models do, the beginning goes."""
        room = self.max_length - len(answer)
        if len(context) > room:
            logger.warning("a question of %d tokens loses its beginning", len(context))
        if room < 1 or not answer:
            raise InvalidRequestError(
                "{param}: an answer of {n} tokens has to be from 1 to {most}",
                "max_length",
                n=len(answer),
                most=self.max_length - 1,
            )
        return tuple(context[-room:]), tuple(answer)

    def _prompt(self, text: str, told: Mapping[str, Any]) -> tuple[list[int]]:
        tokens, _ = self._cut(self.tok_encode(text), [0] * min(_most(told), self.max_length // 2))
        return (list(tokens),)


def _parts(places: Sequence[int], pairs: Sequence[Pair]) -> list[list[int]]:
    """The answers of one question, so many together as a `Question` may have."""
    parts: list[list[int]] = []
    room = 0
    for place in sorted(places, key=lambda place: -len(pairs[place][1])):
        size = len(pairs[place][1])
        if not parts or size > room or len(parts[-1]) == MOST_ANSWERS:
            parts.append([])
            room = ROWS + size  # the longest one counts by itself
        parts[-1].append(place)
        room -= size
    return parts


def _most(told: Mapping[str, Any]) -> int:
    return int(told.get("max_gen_toks", 256))  # the harness's own default


def _sampling(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the harness says of a request, as this package's parameters."""
    until = told.get("until") or []
    return {
        "max_tokens": _most(told),
        "stop": tuple([until] if isinstance(until, str) else until),
        "temperature": float(told.get("temperature", 0.0)) if told.get("do_sample") else 0.0,
    }


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
