"""One engine's status out of those of all replicas: sums, and what gone ones have counted stays counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from codellama.engine.status import EngineStatus
from codellama.replicas.parcels import ReplicaStatus

_NOT_SUMMED = ("accepted_at", "longest", "started", "dead", "threads")


class Tally:
    """The counts of all replicas that have ever been seen. A count never falls, as Prometheus expects."""

    def __init__(self) -> None:
        self._present: dict[str, EngineStatus] = {}
        self._gone = EngineStatus(n_slots=0)

    def total(self, statuses: Iterable[ReplicaStatus]) -> EngineStatus:
        """All of them as one; `statuses` are those of the replicas that run now."""
        found = {one.name: one.engine for one in statuses}
        for name in list(self._present):
            new = found.get(name)
            if new is None or new.started != self._present[name].started:  # or it was loaded again
                self._gone = _past(added([self._gone, self._present.pop(name)]))
        self._present.update({name: engine for name, engine in found.items() if engine})
        return added([self._gone, *self._present.values()])


def added(statuses: Sequence[EngineStatus]) -> EngineStatus:
    """The sums of counts, the longest of the answers, the threads of the last; dead if all that run are."""
    names = [f.name for f in dataclasses.fields(EngineStatus) if f.name not in _NOT_SUMMED]
    sums = {name: sum(getattr(one, name) for one in statuses) for name in names}
    width = max(len(one.accepted_at) for one in statuses)
    accepted = [
        sum(one.accepted_at[i] for one in statuses if i < len(one.accepted_at))
        for i in range(width)
    ]
    return EngineStatus(
        **sums,
        accepted_at=accepted,
        longest=max(one.longest for one in statuses),
        threads=statuses[-1].threads,
    )


def _past(status: EngineStatus) -> EngineStatus:
    """What stays of a replica that is gone: its counts."""
    return dataclasses.replace(status, n_slots=0, n_running=0, n_waiting=0)
