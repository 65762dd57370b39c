"""A setting is declared once: every face of the package has it from there."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click
import pytest
from typing_extensions import Unpack

import codellama
from codellama.cli import main
from codellama.errors import InvalidRequestError
from codellama.llm import LLM
from codellama.params import ModelConfig, ModelOptions, SamplingOptions, SamplingParams
from codellama.protocol.fields import OWN_FORM, SamplingFields, wire_type
from codellama.protocol.llama_server import InfillRequest, NativeRequest
from codellama.protocol.openai import ChatRequest, CompletionRequest
from codellama.settings import Face, Setting, check_settings, setting, settings_of
from settings_tables import PYTHON_API, SERVER, documents

CLASSES = (SamplingParams, ModelConfig)
SETTINGS = [(cls, s) for cls in CLASSES for s in settings_of(cls)]
ASKING = ("chat", "complete", "infill", "serve")
BODIES = (ChatRequest, CompletionRequest, NativeRequest, InfillRequest)

every_setting = pytest.mark.parametrize(
    ("cls", "declared"), SETTINGS, ids=[f"{cls.__name__}-{s.name}" for cls, s in SETTINGS]
)


def options(command: str) -> set[str | None]:
    """The settings that a command has options for."""
    found = main.get_command(click.Context(main, info_name="codellama"), command)
    assert found is not None
    return {param.name for param in found.params}


@dataclasses.dataclass(frozen=True)
class Oven:
    """A class of settings that nothing else knows."""

    heat: float = setting(180.0, "How hot; not above {limit}.", "Heat", low=50, high=300)
    limit: int | None = setting(None, "Highest heat.", "Heat", low=1, default_text="that of {heat}")
    mode: Literal["air", "grill"] | None = setting(None, "Where the heat comes from.", "Heat")
    light: bool = setting(False, "Whether it is lit.", "Light", faces=("HTTP",))
    trays: tuple[int, ...] = setting((), "Which trays are in.", "Trays")

    faces = ("Python",)

    def __post_init__(self) -> None:
        check_settings(self)


def test_a_declaration_is_read_with_its_type() -> None:
    heat, limit, mode, light, trays = settings_of(Oven)
    assert [s.kind for s in (heat, limit, light)] == [float, int, bool]
    assert [s.optional for s in (heat, limit, mode)] == [False, True, True]
    assert (mode.choices, trays.choices) == (("air", "grill"), ())
    assert (heat.limits, limit.limits, light.limits) == ("from 50 to 300", "of 1 or more", "")
    assert heat.sentence(str.upper) == "How hot; not above LIMIT."
    assert (limit.default_text(), trays.default_text()) == ("that of heat", "")
    assert [s.faces for s in (heat, light)] == [("Python",), ("HTTP",)]
    assert Oven() == Oven(heat=180.0, trays=())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"heat": 301}, "heat must be a number from 50 to 300; got 301"),
        ({"heat": None}, "heat must be a number from 50 to 300; got None"),
        ({"heat": True}, "heat must be a number from 50 to 300; got True"),
        ({"limit": 0}, "limit must be a whole number of 1 or more; got 0"),
        ({"limit": 1.0}, "limit must be a whole number of 1 or more; got 1.0"),
        ({"mode": "{x}"}, "mode must be one of air, grill; got '{x}'"),
        ({"light": 1}, "light must be true or false"),
    ],
)
def test_checks_follow_from_the_declaration(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Oven(**given)
    assert (str(caught.value), caught.value.param) == (text, next(iter(given)))


@every_setting
def test_every_setting_has_a_sentence_and_a_default_that_passes(
    cls: type, declared: Setting
) -> None:
    assert declared.sentence().endswith(".")
    assert len(declared.sentence().split()) <= 30
    assert declared.default is not None or declared.default_text() != "None"
    declared.check(declared.default)


@pytest.mark.parametrize("declared", settings_of(SamplingParams), ids=lambda s: s.name)
def test_a_sampling_parameter_is_where_its_faces_say(declared: Setting) -> None:
    """What the command line lacks is the model's there, or nobody would see it: `logprobs`, and slots."""
    assert [body for body in BODIES if declared.name not in body.model_fields] == []
    assert "HTTP" in declared.faces
    missing = [command for command in ASKING if declared.name not in options(command)]
    unseen = declared.name in ("logprobs", "post_sampling_probs", "id_slot")
    assert missing == (list(ASKING) if unseen else [])


@pytest.mark.parametrize("declared", settings_of(ModelConfig), ids=lambda s: s.name)
def test_a_models_setting_is_an_option_of_serve(declared: Setting) -> None:
    assert declared.name in options("serve")
    assert declared.faces == ("Python", "command line")


@every_setting
def test_every_setting_is_in_the_documents(cls: type, declared: Setting) -> None:
    made = documents()
    api, server = made[PYTHON_API], made[SERVER]
    assert f"\n| `{declared.name}` |" in api
    if cls is SamplingParams:
        assert f"\n| `{declared.name}` |" in server or f"\n| `{declared.name}, " in server


def test_the_documents_are_up_to_date() -> None:
    assert [
        path.name for path, text in documents().items() if path.read_text("utf-8") != text
    ] == []


def test_plain_http_fields_are_no_list_of_their_own() -> None:
    for declared in settings_of(SamplingParams):
        if declared.name not in OWN_FORM:
            field = SamplingFields.model_fields[declared.name]
            wanted: Any = Union[wire_type(declared.kind), None]  # noqa: UP007
            assert field.annotation == wanted
            assert field.default is None


def test_a_type_without_a_plain_form_is_not_guessed() -> None:
    with pytest.raises(TypeError, match="OWN_FORM"):
        wire_type(Mapping[int, float])


def argument(kind: Any) -> Any:
    """The type of an argument for a field of this type: any sequence for a tuple."""
    if get_origin(kind) is tuple and get_args(kind)[-1] is ...:
        sequence: Any = Sequence
        return sequence[get_args(kind)[0]]
    return kind


@pytest.mark.parametrize(
    ("cls", "keywords"), [(SamplingParams, SamplingOptions), (ModelConfig, ModelOptions)]
)
def test_the_keyword_arguments_are_the_fields(cls: type, keywords: type) -> None:
    fields = get_type_hints(cls)
    assert get_type_hints(keywords) == {name: argument(kind) for name, kind in fields.items()}
    assert list(get_type_hints(keywords)) == list(fields)


@pytest.mark.parametrize(
    ("function", "name", "keywords"),
    [
        (LLM.__init__, "config", ModelOptions),
        (LLM.chat, "params", SamplingOptions),
        (LLM.complete, "params", SamplingOptions),
        (LLM.infill, "params", SamplingOptions),
    ],
)
def test_an_editor_completes_every_parameter(function: Any, name: str, keywords: Any) -> None:
    parameter = inspect.signature(function).parameters[name]
    assert parameter.kind is inspect.Parameter.VAR_KEYWORD
    assert get_type_hints(function)[name] == Unpack[keywords]


def test_a_list_of_names_is_written_once() -> None:
    lists: list[str] = []
    for path in Path(codellama.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                lists.append(ast.unparse(node.slice))
    assert sorted(names for names in set(lists) if lists.count(names) > 1) == []


def test_dir_shows_the_public_names() -> None:
    assert sorted(codellama.__all__) == dir(codellama)


def test_faces_are_spelled_right() -> None:
    assert {face for _, s in SETTINGS for face in s.faces} == set(get_args(Face))
