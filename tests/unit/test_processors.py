"""How many threads a machine is begun with, on made-up machines: laptops, servers, boards and containers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from codellama.devices.placement import DeviceLayers
from codellama.devices.processors import (
    Core,
    Processors,
    ThreadChoice,
    choose_threads,
    parse_list,
    read_processors,
    this_processors,
)
from codellama.devices.quota import read_quota
from codellama.devices.thread_plan import plan_threads
from codellama.params import ModelConfig
from codellama.weights.writer import default_threads
from tests import made_up_sysfs as made_up


def alone(n: int) -> list[list[int]]:
    """`n` cores of one hardware thread."""
    return [[cpu] for cpu in range(n)]


def paired(n: int) -> list[list[int]]:
    """`n` cores of two hardware threads, numbered as Linux does: all first ones first."""
    return [[cpu, cpu + n] for cpu in range(n)]


def chosen(root: Path, cpus: Sequence[int]) -> ThreadChoice:
    return choose_threads(read_processors(root, cpus))


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_a_thread_per_core(tmp_path: Path, n: int) -> None:
    made_up.machine(tmp_path, alone(n))
    assert chosen(tmp_path, range(n)) == ThreadChoice(n, n, "one per core")


def test_hardware_threads_share_a_core(tmp_path: Path) -> None:
    made_up.machine(tmp_path, paired(8))
    found = chosen(tmp_path, range(16))
    assert (found.n, found.most) == (8, 8)
    assert found.reason == "one per core; 16 hardware threads are 8 cores"


def test_affinity(tmp_path: Path) -> None:
    made_up.machine(tmp_path, paired(32))
    found = chosen(tmp_path, [3, 35, 7])
    assert (found.n, found.most) == (2, 2)
    assert "3 of 64 processors are allowed" in found.reason


def test_intel_with_efficiency_cores(tmp_path: Path) -> None:
    """Eight cores of two threads and eight of one, as of 2021 on."""
    cores = [[2 * core, 2 * core + 1] for core in range(8)] + [[cpu] for cpu in range(16, 24)]
    made_up.machine(tmp_path, cores, atoms="16-23")
    found = chosen(tmp_path, range(24))
    assert (found.n, found.most) == (8, 16)
    assert "one per performance core" in found.reason
    assert "8 efficiency cores are left out" in found.reason


def test_efficiency_cores_alone_are_used(tmp_path: Path) -> None:
    made_up.machine(tmp_path, alone(8), atoms="4-7")
    found = chosen(tmp_path, [4, 5, 6])
    assert (found.n, found.most) == (3, 3)
    assert "efficiency" not in found.reason


def test_big_and_little_by_capacity(tmp_path: Path) -> None:
    capacities = dict(enumerate([250] * 4 + [900] * 3 + [1024]))
    made_up.machine(tmp_path, alone(8), capacities=capacities)
    assert (chosen(tmp_path, range(8)).n, chosen(tmp_path, range(8)).most) == (4, 8)


def test_efficiency_by_clock(tmp_path: Path) -> None:
    clocks = dict(enumerate([5_100_000] * 6 + [3_700_000] * 4))
    made_up.machine(tmp_path, alone(10), clocks=clocks)
    assert chosen(tmp_path, range(10)).n == 6


def test_clocks_of_equal_cores_differ_a_little(tmp_path: Path) -> None:
    clocks = dict(enumerate([5_400_000, 5_400_000, 5_200_000, 5_100_000]))
    made_up.machine(tmp_path, alone(4), clocks=clocks)
    assert chosen(tmp_path, range(4)).n == 4


def test_one_of_two_sockets(tmp_path: Path) -> None:
    made_up.machine(tmp_path, paired(32), sockets=2, nodes=2)
    found = chosen(tmp_path, range(64))
    assert (found.n, found.most) == (16, 32)
    assert "one of 2 sockets" in found.reason


def test_nodes_of_one_socket_go_together(tmp_path: Path) -> None:
    made_up.machine(tmp_path, alone(32), nodes=4)
    found = chosen(tmp_path, range(32))
    assert (found.n, found.most) == (32, 32)
    assert "4 NUMA nodes" in found.reason


@pytest.mark.parametrize(
    ("limit", "n", "most"),
    [
        ("200000 100000", 2, 2),
        ("170000 100000", 1, 1),
        ("175000 100000", 2, 2),
        ("50000 100000", 1, 1),
        ("max 100000", 64, 64),
    ],
)
def test_a_containers_quota(tmp_path: Path, limit: str, n: int, most: int) -> None:
    made_up.machine(tmp_path, alone(64))
    made_up.groups_v2(tmp_path, "/", {"": limit})
    found = chosen(tmp_path, range(64))
    assert (found.n, found.most) == (n, most)
    assert ("quota" in found.reason) == (n < 64)


def test_a_parents_quota_holds_too(tmp_path: Path) -> None:
    limits = {"": "max 100000", "a": "300000 100000", "a/b": "max 100000", "a/b/c": "800000 100000"}
    made_up.groups_v2(tmp_path, "/a/b/c", limits)
    assert read_quota(tmp_path) == 3.0


def test_a_group_below_what_is_mounted(tmp_path: Path) -> None:
    """A container that sees its own group at the mount point, and its host's path in /proc."""
    made_up.groups_v2(tmp_path, "/docker/1234/x", {"x": "250000 100000"}, mounted="/docker/1234")
    assert read_quota(tmp_path) == 2.5


def test_a_group_that_cannot_be_seen(tmp_path: Path) -> None:
    made_up.groups_v2(tmp_path, "/elsewhere", {"": "250000 100000"}, mounted="/docker/1234")
    assert read_quota(tmp_path) == 2.5


def test_quotas_of_version_1(tmp_path: Path) -> None:
    limits = {"": (-1, 100000), "a": (150000, 100000), "a/b": (-1, 100000)}
    made_up.groups_v1(tmp_path, "/a/b", limits)
    assert read_quota(tmp_path) == 1.5


def test_no_groups_no_quota(tmp_path: Path) -> None:
    assert read_quota(tmp_path) is None
    made_up.groups_v2(tmp_path, "/", {"": "nonsense"})
    assert read_quota(tmp_path) is None


def test_folders_that_tell_nothing(tmp_path: Path) -> None:
    assert read_processors(tmp_path, [0, 1, 2]) == Processors(
        3, (Core((0,)), Core((1,)), Core((2,)))
    )


def test_lists_of_processors() -> None:
    assert parse_list("0-2,5,8-9\n") == [0, 1, 2, 5, 8, 9]
    assert parse_list("") == parse_list("0-x") == []


def test_this_machine_has_what_the_process_may_use() -> None:
    found = this_processors()
    assert 1 <= len(found.cores) <= found.n_allowed <= found.n_cpus
    if hasattr(os, "sched_getaffinity"):
        assert {cpu for core in found.cores for cpu in core.cpus} == os.sched_getaffinity(0)
    assert default_threads() == choose_threads(found).n


CHOICE = ThreadChoice(4, 8, "one per core")
ON_CPU, ON_GPU = DeviceLayers("CPU", 33, 0, 0, 0), DeviceLayers("CPU", 0, 0, 0, 0)


def test_what_is_asked_for_is_not_changed() -> None:
    plan = plan_threads(ModelConfig(n_threads=3), CHOICE, [ON_CPU])
    assert (plan.n, plan.n_batch, plan.adapts, plan.adapts_batch) == (3, 3, False, False)
    assert plan.reason == "as asked for"


def test_prompts_may_have_their_own_number() -> None:
    plan = plan_threads(ModelConfig(n_threads_batch=7), CHOICE, [ON_CPU])
    assert (plan.n, plan.n_batch, plan.adapts, plan.adapts_batch) == (4, 7, True, False)
    other = plan_threads(ModelConfig(n_threads=2, n_threads_batch="auto"), CHOICE, [ON_CPU])
    assert (other.n, other.n_batch, other.adapts, other.adapts_batch) == (2, 4, False, True)


def test_a_cpu_without_layers_is_left_alone() -> None:
    assert not plan_threads(ModelConfig(), CHOICE, [ON_GPU]).adapts
    assert plan_threads(ModelConfig(), CHOICE, [ON_CPU]).adapts
