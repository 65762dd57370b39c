"""Serving with replicas: bind, start or join a cluster, deploy while listening."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from codellama.errors import EngineDeadError, UnsupportedError
from codellama.params import ModelConfig
from codellama.replicas.environment import prepare
from codellama.replicas.front import Front, create_front
from codellama.replicas.settings import ReplicaConfig, model_fields, share_of
from codellama.server.app import create_app, paths_of
from codellama.server.config import ServerConfig
from codellama.server.run import listening, server_of

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

log = logging.getLogger(__name__)

LoaderOf = Callable[[dict[str, Any]], Callable[[], "LanguageModel"]]
"""Gives what loads the model with these fields of `ModelConfig`; it can be pickled."""


def serve_replicas(
    loader: LoaderOf,
    fields: dict[str, Any],
    config: ServerConfig,
    replicas: ReplicaConfig,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C with replicas of a model that `loader` gives for `fields`.

    `n_seq_max` requests run at once in each replica, and `max_queue` may wait in all. Raises UnsupportedError
    without Ray, InvalidRequestError if the address cannot be had or there is no cluster, and CodeLlamaError
    if the replicas do not start.
    """
    if importlib.util.find_spec("ray") is None:
        raise UnsupportedError("replicas need Ray Serve: pip install 'codellama-runtime[ray]'")
    prepare(os.environ, own=replicas.ray is None)
    from codellama.replicas import ray_cluster

    model, failures = ModelConfig(**fields), list[BaseException]()
    slots = model.n_seq_max
    most = slots * replicas.most + model.max_queue
    urls: list[str] = []
    with (
        listening(config, urls.append) as listeners,
        ray_cluster.cluster(replicas.ray) as machines,
    ):
        share = share_of(machines, replicas.most, model.n_gpu_layers != 0)
        several = ray_cluster.RayReplicas(replicas.replicas, replicas.most, share)
        load = loader(model_fields(fields, share))

        def start(ready: Callable[[], None]) -> None:
            loop = asyncio.get_running_loop()

            def deploy() -> None:
                try:
                    several.deploy(load, inner_config(config), slots, most)
                except BaseException as error:  # whatever it is, the server must hear of it
                    failures.append(error)
                    server.failed = server.should_exit = True
                else:
                    log.info("ready: %d replicas, %d slots each", replicas.replicas, slots)
                    loop.call_soon_threadsafe(ready)

            threading.Thread(target=deploy, name="deploy", daemon=True).start()

        paths = paths_of(create_app(_nothing, inner_config(config)))
        app = create_front(several, config, most, start, paths)
        front: Front = app.state.front
        server = server_of(app, front, config)
        for url in urls:  # nobody is answered while Ray starts
            announce(url)
        server.run(sockets=listeners)
        if not failures:
            several.remove()
    if failures:
        raise failures[0]


def inner_config(config: ServerConfig) -> ServerConfig:
    """The configuration of a replica's app: what the front does already, it does not do again."""
    return dataclasses.replace(
        config,
        host="127.0.0.1",
        port=0,
        api_keys=(),
        cors_origins=(),
        page=False,
        access_log=False,
    )


def _nothing() -> LanguageModel:
    raise EngineDeadError("only the routes of this app are of use")
