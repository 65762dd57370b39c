"""From binding to the last drained answer: loading, leaving clients, signals, ports, exposure."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.errors import InvalidRequestError, ModelLoadError
from codellama.server.config import ServerConfig, is_loopback
from codellama.server.run import bind, build, serve, url_of
from tests.fake_llm import FakeLLM
from tests.live_server import DEADLINE_S, Live, running, wait_until

MESSAGES = [{"role": "user", "content": "hi"}]
GENERATION = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": ["x", "y"], "n": 2}),
    ("/completion", {"prompt": "x"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]


def send(live: Live, path: str, body: dict[str, Any]) -> http.client.HTTPConnection:
    """Send a request and do not read the answer."""
    connection = http.client.HTTPConnection(live.url.removeprefix("http://"))
    headers = {"content-type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    return connection


# -- loading ----------------------------------------------------------------------------------


def test_a_model_is_warmed_up_before_anybody_is_served() -> None:
    warming, go_on = threading.Event(), threading.Event()

    class Slow(FakeLLM):
        def warm_up(self) -> None:
            warming.set()
            go_on.wait()
            super().warm_up()

    llm = Slow()
    with running(lambda: llm, ready=False) as live:
        warming.wait()
        assert live.get("/health").status_code == 503
        go_on.set()
        wait_until(lambda: live.get("/health").status_code == 200)
        assert llm.warm


def test_who_asked_hears_when_it_is_warm() -> None:
    llm, heard = FakeLLM(), list[bool]()
    server = build(lambda: llm, ServerConfig(port=0), on_warm=lambda: heard.append(llm.warm))
    listener = bind("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    wait_until(lambda: bool(heard))
    server.should_exit = True
    thread.join()
    assert heard == [True]


def test_health_says_loading_until_the_model_is_there() -> None:
    loaded = threading.Event()
    llm = FakeLLM()

    def load() -> FakeLLM:
        loaded.wait()
        return llm

    with running(load, ready=False) as live:
        for response in (live.get("/health"), live.post("/completion", prompt="x")):
            assert response.status_code == 503
            assert response.json() == {
                "error": {
                    "code": 503,
                    "message": "Loading model",
                    "type": "unavailable_error",
                    "param": None,
                }
            }
        loaded.set()
        wait_until(lambda: live.get("/health").status_code == 200)


def test_a_model_that_arrives_after_the_end_is_closed() -> None:
    loaded = threading.Event()
    llm = FakeLLM()

    def load() -> FakeLLM:
        loaded.wait()
        return llm

    with running(load, ready=False) as live:
        live.stop()
        live.join()  # does not wait for the model
    loaded.set()
    wait_until(lambda: llm.closed)


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    def load() -> Any:
        raise ModelLoadError("the file is no GGUF")

    urls: list[str] = []
    with pytest.raises(ModelLoadError, match="no GGUF"):
        serve(load, ServerConfig(port=0), urls.append)
    assert urls[0].startswith("http://127.0.0.1:")


# -- clients that leave -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def endless() -> Iterator[tuple[FakeLLM, Live]]:
    """A model that says "hel" and then nothing until it is cancelled."""
    llm = FakeLLM(hold=True)
    with running(lambda: llm, ServerConfig(port=0, ping_interval=0.05)) as live:
        yield llm, live


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), GENERATION)
def test_a_client_that_leaves_cancels(
    endless: tuple[FakeLLM, Live], path: str, body: dict[str, Any], stream: bool
) -> None:
    llm, live = endless
    llm.calls.clear()
    llm.cancelled.clear()
    prompts = 2 if isinstance(body.get("prompt"), list) else 1
    connection = send(live, path, {**body, "stream": stream})
    wait_until(lambda: len(llm.calls) == prompts)
    if stream:
        response = connection.getresponse()
        assert response.read1(10)
        response.close()
    assert llm.cancelled == set()
    connection.close()
    wait_until(lambda: len(llm.cancelled) == prompts, 5.0)
    assert not live.server._serving.running


def test_an_open_stream_costs_no_thread(endless: tuple[FakeLLM, Live]) -> None:
    llm, live = endless
    llm.calls.clear()
    before = threading.active_count()
    connections = [send(live, "/completion", {"prompt": "x", "stream": True}) for _ in range(120)]
    wait_until(lambda: len(llm.calls) == len(connections))
    assert threading.active_count() < before + 60  # a pool of at most 40 submits requests
    for connection in connections:
        connection.close()
    wait_until(lambda: not live.server._serving.running)


def test_a_silent_stream_is_pinged(endless: tuple[FakeLLM, Live]) -> None:
    _, live = endless
    connection = send(live, "/completion", {"prompt": "x", "stream": True})
    response = connection.getresponse()
    lines = [response.readline() for _ in range(8)]
    connection.close()
    response.close()
    assert lines[0].startswith(b"data: ")
    assert lines.count(b":\n") >= 2


def test_pings_are_comments_to_clients() -> None:
    llm = FakeLLM(hold=True)
    with running(lambda: llm, ServerConfig(port=0, ping_interval=0.02)) as live:
        body = {"prompt": "x", "stream": True}
        with httpx.stream(
            "POST", f"{live.url}/completion", json=body, timeout=DEADLINE_S
        ) as stream:
            coming, lines = stream.iter_lines(), list[str]()
            while lines.count(":") < 3:  # for which any time is long enough
                lines.append(next(coming))
            llm.release()
            lines.extend(coming)
    data = [line for line in lines if line.startswith("data: ")]
    assert "".join(json.loads(line[6:])["content"] for line in data) == "hello"


# -- stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_running_answers_are_drained(stream: bool) -> None:
    llm = FakeLLM(hold=True)
    with running(lambda: llm, ServerConfig(port=0, drain_timeout=30)) as live:
        connection = send(live, "/completion", {"prompt": "x", "stream": stream})
        wait_until(lambda: len(llm.calls) == 1)
        live.stop()
        wait_until(lambda: not accepts(live))
        llm.release()
        text = connection.getresponse().read().decode()
        live.join()
        connection.close()
    last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["stop"], last["stop_type"]) == (True, "eos")
    assert llm.cancelled == set()
    assert llm.closed


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_end_in_time_is_cut_short(stream: bool) -> None:
    llm = FakeLLM(hold=True)
    with running(lambda: llm, ServerConfig(port=0, drain_timeout=0.3)) as live:
        connection = send(live, "/completion", {"prompt": "x", "stream": stream})
        wait_until(lambda: len(llm.calls) == 1)
        live.stop()
        response = connection.getresponse()
        text = response.read().decode()
        live.join()
        connection.close()
    assert response.status == (200 if stream else 503)
    error = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == (503, "unavailable_error")
    assert "stopping" in error["message"]
    assert len(llm.cancelled) == 1


def accepts(live: Live) -> bool:
    """Whether the server takes new connections."""
    host, port = live.url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


# -- addresses --------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InvalidRequestError, match=f"port {port} on 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_a_host_that_is_not_here(host: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"cannot listen on {host}") as caught:
        bind(host, 0)
    assert caught.value.param == "host"


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        listener = bind("::1", 0)
    except InvalidRequestError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener:
        assert url_of(listener).startswith("http://[::1]:")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_only_loopback_needs_no_key(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    assert ServerConfig(host=host, api_keys=("key",)).host == host
    if loopback:
        ServerConfig(host=host)
    else:
        with pytest.raises(InvalidRequestError, match="set api_keys, or"):
            ServerConfig(host=host)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
        ({"api_keys": ("",)}, "api_key"),
        ({"api_keys": (" a",)}, "api_key"),
        ({"api_keys": ("ключ",)}, "api_key"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"ping_interval": 0.0}, "ping_interval"),
        ({"drain_timeout": -1.0}, "drain_timeout"),
    ],
)
def test_bad_configurations(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ServerConfig(**options)
    assert caught.value.param == param


# -- the command ------------------------------------------------------------------------------


def invoke(*args: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["serve", *args], env=env)
    return result.exit_code, result.stderr


def test_command_refuses_an_open_address_without_a_key(tmp_path: Path) -> None:
    code, text = invoke("model.gguf", "--host", "0.0.0.0")
    assert code == 1
    assert text == (
        "Error: 0.0.0.0 can be reached by other machines: set --api-key (or --api-key-file), "
        "or listen on 127.0.0.1\n"
    )


def test_command_with_a_port_in_use(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        code, text = invoke(str(model), "--port", port)
    assert code == 1
    assert text == (
        f"Error: port {port} on 127.0.0.1 is in use: stop the program that has it, or choose "
        "another with --port (0 takes a free one)\n"
    )


def test_command_with_a_broken_model(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"nonsense")
    code, text = invoke(str(model), "--port", "0")
    assert code == 1
    first, second = text.splitlines()
    assert first.startswith("listening on http://127.0.0.1:")
    assert second.startswith("Error: ")
    assert "model.gguf" in second


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read"), ("\n \n", "holds no key")])
def test_command_with_a_bad_key_file(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    code, text = invoke("model.gguf", "--api-key-file", str(file))
    assert code == 1
    assert message in text
    assert text.count("\n") == 1


def test_keys_come_from_options_commas_files_and_the_environment(tmp_path: Path) -> None:
    from codellama.cli.serve import collect_keys

    file = tmp_path / "keys"
    file.write_text("c\n\n d \n")
    assert collect_keys(("a,b", "x"), file) == ("a", "b", "x", "c", "d")
    assert collect_keys((), None) == ()
    code, text = invoke("no-such-model", env={"CODELLAMA_SERVE_API_KEY": "a,,b"})
    assert (code, text) == (1, "Error: --api-key must not be empty\n")


@pytest.mark.parametrize(
    ("options", "page", "log"),
    [
        ((), True, True),
        (("--no-page",), False, True),
        (("--no-webui", "--no-access-log"), False, False),
    ],
)
def test_the_page_and_the_log_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], page: bool, log: bool
) -> None:
    served: list[ServerConfig] = []
    monkeypatch.setattr(
        "codellama.server.run.serve", lambda load, config, announce, loading: served.append(config)
    )
    model = tmp_path / "model.gguf"
    model.touch()
    assert invoke(str(model), *options) == (0, "")
    assert [(config.page, config.access_log) for config in served] == [(page, log)]


def test_help_is_complete() -> None:
    result = CliRunner().invoke(main, ["serve", "--help"])
    assert result.exit_code == 0
    for option in (
        "--host",
        "--port",
        "--api-key",
        "--cors-origin",
        "--drain-timeout",
        "--parallel",
    ):
        assert option in result.stdout
