from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import command_pages
from codellama.cli import COMMANDS, GROUPS, LazyGroup, completion, main, option_names
from codellama.errors import CodeLlamaError, InvalidRequestError, UnsupportedError

ROOT = Path(__file__).parents[2]


def commands() -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(main, info_name="codellama")
    for name in COMMANDS:
        command = main.get_command(ctx, name)
        assert command is not None
        yield name, command


def test_the_module_of_a_command_defines_the_command_of_that_name() -> None:
    assert [command.name for _, command in commands()] == list(COMMANDS)


def test_every_command_has_help() -> None:
    assert [name for name, command in commands() if not command.help] == []


def test_every_option_has_help_and_shows_its_environment_variable() -> None:
    bare = [
        f"{name} {option.opts[0]}"
        for name, command in (*commands(), ("", main))
        for option in command.params
        if isinstance(option, click.Option)
        and option.opts != ["--version"]
        and not (option.help and option.show_envvar)
    ]
    assert bare == []


def test_the_reference_page_is_what_the_commands_say() -> None:
    assert command_pages.PAGE.read_text("utf-8") == command_pages.page(), (
        "run scripts/command_pages.py"
    )


def test_help_has_every_command_under_a_heading() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    places = [text.index(f"\n{heading}:\n") for heading in GROUPS]
    assert places == sorted(places)
    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []


@pytest.mark.parametrize(("word", "is_called"), [("help", "--help"), ("list", "models")])
def test_what_is_called_otherwise_here_is_told(word: str, is_called: str) -> None:
    result = CliRunner().invoke(main, [word], prog_name="codellama")
    assert result.exit_code == 2
    assert f"it is `codellama {is_called}`" in result.stderr


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("codellama ch", ["plain,chat"]),
        ("codellama chat --templ", ["plain,--template"]),
        ("codellama chat 70b-i", ["plain,70b-instruct"]),
        ("codellama serve ./mod", ["file,./mod"]),
        ("codellama edit x", ["file,x"]),
        ("codellama chat --chat-format t", ["plain,turn"]),
    ],
)
def test_shells_complete(words: str, wanted: list[str]) -> None:
    n = len(words.split()) - 1
    env = {"COMP_WORDS": words, "COMP_CWORD": str(n), "_CODELLAMA_COMPLETE": "bash_complete"}
    assert CliRunner(env=env).invoke(main, prog_name="codellama").stdout.split() == wanted


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completion_is_printed_and_installed(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_DATA_HOME", "ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    assert "_CODELLAMA_COMPLETE=" in script
    CliRunner().invoke(main, ["completion", shell, "--install"])
    assert completion.place(shell).read_text() == script.removesuffix("\n")
    checker = shutil.which(shell)
    if checker is not None:
        subprocess.run([checker, "-n", completion.place(shell)], check=True)


def test_fish_shows_descriptions_whole() -> None:
    """Commas are in many of them, and in names of files."""
    script = completion.completion_script("fish")
    assert 'string split --max 1 "," $completion' in script
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed: the script's text alone was looked at")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    asked = f"{script}\ncomplete --do-complete 'codellama '"
    done = subprocess.run([fish, "-c", asked], env=env, capture_output=True, text=True, check=True)
    said = {name: command.get_short_help_str() for name, command in commands()}
    shown = dict(line.split("\t") for line in done.stdout.splitlines())
    assert any("," in text for text in said.values())
    assert shown == said


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "codellama.server.run", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "codellama.server.run")
    monkeypatch.setattr("codellama.cli.loading.model_file", lambda name: tmp_path)
    result = CliRunner().invoke(main, ["serve", "x.gguf"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: uvicorn is not installed: pip install 'codellama-runtime[server]'\n"
    )


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"codellama {name}" not in readme] == []


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_printed(name: str) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys\n"
        "from codellama.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'llama_cpp', 'numpy', 'fastapi', 'rich', 'prompt_toolkit', 'pydantic', 'gguf'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or None)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_python_m_codellama_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "codellama", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.startswith("codellama, version ")


# -- how commands end -----------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What the command `fail` raises."""
    errors: list[BaseException] = []

    @click.command("fail")
    @click.option("-np", "--parallel", "--slots", "n_seq_max", type=int)
    @click.option("--kv-offload/--no-kv-offload", "offload_kqv")
    def fail(**options: object) -> None:
        raise errors[0]

    monkeypatch.setattr(LazyGroup, "get_command", lambda self, ctx, name: fail)
    return errors


def test_a_known_failure_is_one_line_and_exit_code_1(failing: list[BaseException]) -> None:
    failing.append(UnsupportedError("no GPU backend"))
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: no GPU backend\n")


def test_an_error_names_settings_as_the_commands_options_do(failing: list[BaseException]) -> None:
    failing.append(
        InvalidRequestError(
            "{param} is {value!r}", "n_seq_max", "set {offload_kqv} or {n_ctx}", value="{x}"
        )
    )
    result = CliRunner().invoke(main, ["fail"])
    assert result.stderr == "Error: --parallel is '{x}': set --kv-offload or n_ctx\n"


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("convert", {"force", "restart", "imatrix", "output_type", "embedding_type"}),
        ("quantize", {"force", "restart", "imatrix", "allow_requantize"}),
        ("imatrix", {"force"}),
        ("infill", {"experimental_infill"}),
        ("chat", {"n_ctx", "n_gpu_layers", "type_k", "type_v"}),
        ("serve", {"n_ctx", "n_seq_max", "port", "host", "api_key"}),
    ],
)
def test_what_remedies_name_has_an_option(command: str, settings: set[str]) -> None:
    found = LazyGroup(name="codellama").get_command(click.Context(main), command)
    assert found is not None
    assert settings <= option_names(found).keys()


def test_verbose_shows_where_it_came_from(failing: list[BaseException]) -> None:
    failing.append(UnsupportedError("no GPU backend"))
    result = CliRunner().invoke(main, ["-v", "fail"])
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("Error: no GPU backend\n")


@pytest.mark.parametrize(
    ("option", "own", "llama_cpp"),
    [
        ((), logging.WARNING, logging.WARNING),
        (("-v",), logging.DEBUG, logging.INFO),
        (("-vv",), logging.DEBUG, logging.DEBUG),
    ],
)
def test_llama_cpps_debugging_is_for_who_asks_twice(
    failing: list[BaseException], option: tuple[str, ...], own: int, llama_cpp: int
) -> None:
    levels: list[int] = []

    class Looking(CodeLlamaError):
        def spelled(self, names: Mapping[str, str]) -> str:
            for name in ("codellama.server", "codellama.llama_cpp"):
                levels.append(logging.getLogger(name).getEffectiveLevel())
            return "seen"

    failing.append(Looking("seen"))
    CliRunner().invoke(main, [*option, "fail"])
    assert levels[-2:] == [own, llama_cpp]
    assert logging.getLogger("codellama.llama_cpp").level == logging.NOTSET


def test_a_file_that_cannot_be_used_is_one_line(failing: list[BaseException]) -> None:
    failing.append(PermissionError(13, "Permission denied", "/root/x.json"))
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.stderr) == (1, "Error: /root/x.json: Permission denied\n")


def test_ctrl_c_is_exit_code_130_and_silent(failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.output) == (130, "")


def test_a_closed_pipe_is_silent(failing: list[BaseException]) -> None:
    failing.append(BrokenPipeError(32, "Broken pipe"))
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.output) == (1, "")


def test_a_bug_keeps_its_traceback(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError())
    assert isinstance(CliRunner().invoke(main, ["fail"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "args", [["nonsense"], ["chat", "--nonsense"], ["--nonsense"], ["complete"]]
)
def test_bad_usage_is_exit_code_2(args: list[str]) -> None:
    assert CliRunner().invoke(main, args).exit_code == 2
