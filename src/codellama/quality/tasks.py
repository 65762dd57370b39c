"""The tasks of lm-evaluation-harness over one file, among them the six of the model card's leaderboard.

What a task asks, how answers are counted and where its data come from is the harness's. Here it is said how
many examples each of the six has, which number the leaderboard shows, and what to fetch if data are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import InvalidRequestError, UnsupportedError

LEADERBOARD = "leaderboard"

_SEED = 1234  # of which examples are taken; the harness's default


@dataclass(frozen=True)
class Task:
    """A task of the leaderboard: its examples, the number that counts, and its data set on the hub."""

    shots: int
    metric: str
    data: str


TASKS: Mapping[str, Task] = {
    "arc_challenge": Task(25, "acc_norm,none", "allenai/ai2_arc"),
    "hellaswag": Task(10, "acc_norm,none", "Rowan/hellaswag"),
    "mmlu": Task(5, "acc,none", "cais/mmlu"),
    "truthfulqa_mc2": Task(0, "acc,none", "truthfulqa/truthful_qa"),
    "winogrande": Task(5, "acc,none", "allenai/winogrande"),
    "gsm8k": Task(5, "exact_match,flexible-extract", "openai/gsm8k"),
}
"""The Open LLM Leaderboard of the model card: names as in the harness, examples as on its page."""


@dataclass(frozen=True)
class TaskResult:
    """What came out: all of the task's numbers, the one that counts, and how many questions there were."""

    task: str
    shots: int | None
    metric: str
    value: float
    error: float | None
    n: int
    numbers: Mapping[str, float]


def task_names(told: Sequence[str]) -> list[str]:
    """The names in `told`, with those of the leaderboard in place of its name."""
    names: dict[str, None] = {}
    for name in told:
        names.update(dict.fromkeys(TASKS if name == LEADERBOARD else [name]))
    return list(names)


def run_tasks(
    model: Path,
    names: Sequence[str],
    *,
    shots: int | None = None,
    limit: int | None = None,
    include: Path | None = None,
    **config: Any,
) -> Iterator[TaskResult]:
    """Run tasks one after the other.

    `shots` takes the place of a task's own number of examples, `limit` of all its questions; `include` is a
    folder with tasks of one's own. `config` are arguments of `HarnessModel`.

    Raises UnsupportedError without the harness or a task's data, InvalidRequestError for an unknown task.
    """
    evaluate, manager, make = _harness(include)
    for name in names:
        if name not in manager.all_tasks:
            raise InvalidRequestError(
                "{param}: the harness knows no task {name!r}",
                "tasks",
                "see lm_eval ls tasks",
                name=name,
            )
    tasks = _load(manager, names)
    with closing(make(str(model), **config)) as harness_model:
        for name, loaded in tasks.items():
            known = TASKS.get(name)
            n_shots = shots if shots is not None else known.shots if known else None
            _set_shots(loaded["tasks"], n_shots)
            # The harness's `simple_evaluate` also lists the machine's packages, which takes a minute.
            found = evaluate(harness_model, loaded, limit=limit, log_samples=False)
            yield _result(name, n_shots, found, known)


def _load(manager: Any, names: Sequence[str]) -> dict[str, Any]:
    """The tasks with their data, all of them before the first is run: an answer takes longer than a look."""
    found, errors = {}, {}
    for name in names:
        try:
            found[name] = manager.load([name])
        except (OSError, ValueError) as error:  # `datasets` raises them if there are no data
            errors[name] = error
    if errors:
        raise _missing(errors) from next(iter(errors.values()))
    return found


def _harness(include: Path | None) -> tuple[Any, Any, Any]:
    """The harness's `evaluate`, its tasks with those of the folder `include`, and the class of our model."""
    try:
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        from codellama.quality.harness import HarnessModel
    except ImportError as error:
        raise UnsupportedError(
            "tasks are those of lm-evaluation-harness, which is not installed",
            "pip install 'codellama-runtime[lm-eval]'",
        ) from error
    return evaluate, TaskManager(include_path=str(include) if include else None), HarnessModel


def _set_shots(tasks: Mapping[str, Any], shots: int | None) -> None:
    """Give tasks their examples, as the harness's own command does: a task's own 0 stays."""
    for task in tasks.values():
        own = task.get_config("num_fewshot")
        if own is None or (own != 0 and shots is not None):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=_SEED)


def _missing(errors: Mapping[str, Exception]) -> UnsupportedError:
    """One error for all tasks whose data are not here, with the commands that fetch them."""
    first = next(iter(errors.values()))
    reason = str(first).splitlines()[0] if str(first) else type(first).__name__
    known = [TASKS[name].data for name in errors if name in TASKS]
    fetch = " && ".join(f"hf download --repo-type dataset {data}" for data in known)
    plural = "s" if len(errors) > 1 else ""
    return UnsupportedError(
        f"the data of task{plural} {', '.join(errors)} cannot be loaded ({reason})",
        f"run {fetch or 'them'} where there is a network, with the hub's cache that is used here",
    )


def _result(
    name: str, shots: int | None, found: Mapping[str, Any], known: Task | None
) -> TaskResult:
    row = (found.get("groups") or {}).get(name) or found["results"][name]
    numbers = {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, (int, float)) and "," in key
    }
    metric = known.metric if known else next(key for key in numbers if "_stderr" not in key)
    kind, _, filtered = metric.partition(",")
    counts = found["n-samples"]
    names = found.get("group_subtasks", {}).get(name) or [name]
    return TaskResult(
        task=name,
        shots=shots,
        metric=metric,
        value=numbers[metric],
        error=numbers.get(f"{kind}_stderr,{filtered}"),
        n=sum(counts[task]["effective"] for task in names if task in counts),
        numbers=numbers,
    )
