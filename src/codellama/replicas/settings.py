"""How many replicas there are, and what each may take of the machines; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codellama.errors import InvalidRequestError

MOST = 1000


@dataclass(frozen=True)
class ReplicaConfig:
    """`replicas` of the model, at least; as many as `max_replicas` where there is more to do (None: no more).

    `ray` is the address of the cluster of which this machine is a part, "auto" for the one that runs here;
    None starts one on this machine, for as long as the server runs. Raises InvalidRequestError.
    """

    replicas: int
    max_replicas: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= MOST:
            raise InvalidRequestError("{param} must be from 1 to {most}", "replicas", most=MOST)
        if not self.replicas <= self.most <= MOST:
            raise InvalidRequestError(
                "{param} must be from {least} to {most}",
                "max_replicas",
                least=self.replicas,
                most=MOST,
            )
        if self.ray is not None and "://" in self.ray:
            raise InvalidRequestError(
                "{param} is the HOST:PORT of a cluster that this machine is a part of, or auto",
                "ray",
                "let this machine join it with `ray start`, and give auto",
            )

    @property
    def most(self) -> int:
        """How many there may be."""
        return self.replicas if self.max_replicas is None else self.max_replicas


@dataclass(frozen=True)
class ClusterNode:
    """A machine of the cluster: its processors and GPUs."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Share:
    """What a replica takes: `gpus` GPUs and `cpus` processors; so many on one machine (None: no limit)."""

    cpus: float
    gpus: int = 0
    per_machine: int | None = None

    @property
    def threads(self) -> int:
        """Threads that do not disturb the other replicas of its machine."""
        return max(1, int(self.cpus))


def share_of(machines: Sequence[ClusterNode], replicas: int, uses_gpus: bool) -> Share:
    """One replica per GPU where there are some; else one per machine; else they share the processors.

    `replicas` is how many there may be.
    """
    smallest = min((machine.cpus for machine in machines), default=1.0)
    if uses_gpus and any(machine.gpus >= 1 for machine in machines):
        with_gpus = [machine for machine in machines if machine.gpus >= 1]
        return Share(min(machine.cpus / machine.gpus for machine in with_gpus), gpus=1)
    if len(machines) >= replicas > 1:
        return Share(smallest, per_machine=1)
    each = -(-replicas // max(1, len(machines)))
    share = smallest / each
    return Share(float(int(share)) if share >= 1 else share)


def model_fields(fields: dict[str, Any], share: Share) -> dict[str, Any]:
    """The fields of `ModelConfig` for a replica: with as many threads as its share, unless they are set."""
    return {"n_threads": share.threads, **fields}
