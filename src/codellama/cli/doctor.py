"""`codellama doctor`: what this machine and its llama.cpp have, what is wrong, and what mends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from codellama.cli.options import json_option, separated

if TYPE_CHECKING:
    from codellama.devices.doctor import MachineFacts


@click.command("doctor")
@click.option(
    "--rpc",
    type=separated,
    default="",
    metavar="HOST:PORT,...",
    show_envvar=True,
    help="Other machines to look at too, as of serve.",
)
@json_option
def command(rpc: tuple[str, ...], as_json: bool) -> None:
    """Look at this machine: backends, devices, memory and how fast it is, versions.

    Each problem that is found comes with the command that mends it; the exit code is then 1. Measuring
    takes a second.
    """
    from codellama.devices.doctor import diagnose, facts_json
    from codellama.devices.facts import gather

    facts = gather(rpc)
    problems = diagnose(facts)
    if as_json:
        click.echo(json.dumps(facts_json(facts, problems), indent=2))
    else:
        for line in lines(facts):
            click.echo(line)
        for problem in problems:
            click.secho(f"problem       {problem.text}", bold=True)
            click.echo(f"  mend it     {problem.command}")
        if not problems:
            click.echo("problems      none found")
    if problems:
        raise click.exceptions.Exit(1)


def lines(facts: MachineFacts) -> list[str]:
    """The facts for people, one a line."""
    from codellama.devices.processors import choose_threads
    from codellama.devices.sizes import size_text

    machine = facts.machine
    processors, threads = machine.processors, choose_threads(machine.processors)
    rows = [
        ("versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items()))
    ]
    rows.append(("backends", ", ".join(facts.backends)))
    for device in facts.devices:
        where = f" at {device.endpoint}" if device.endpoint else ""
        speed = f", {device.bandwidth / 1e9:.0f} GB/s" if device.bandwidth else ""
        if device.network:
            speed += f", over a network of {8 * device.network / 1e9:.2g} Gbit/s"
            speed += f" and {1000 * device.latency:.2g} ms"
        memory = f"{size_text(device.free_bytes)} of {size_text(device.total_bytes)} free{speed}"
        if device.kind == "cpu" and not device.endpoint:
            memory = f"{len(processors.cores)} cores, {processors.n_cpus} processors"
        rows.append(("device", f"{device.name} ({device.description}){where}: {memory}"))
    free = f"{size_text(machine.room)} of {size_text(machine.memory_bytes)} free"
    rows.append(("memory", f"{free}, read at {machine.bandwidth / 1e9:.1f} GB/s"))
    rows.append(("threads", f"{threads.n}: {threads.reason}"))
    kinds = ", ".join(sorted(machine.rearranges)) or "none"
    rows.append(("rearranged", f"on the CPU: {kinds}"))
    return [f"{name:<13} {text}" for name, text in rows]
