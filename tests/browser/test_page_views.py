"""The other views in Chromium with the demo model: probabilities, gaps, exact ids, the plan."""

from __future__ import annotations

import pytest

from codellama.llm import LLM
from tests.browser.driver import Tab
from tests.fake_llm import FakeLLM
from tests.live_server import Live, wait_until

BEGINNING = "def fibonacci("
GREEDY = "localStorage.setItem('codellama-sampling', '{\"temperature\": 0, \"max_tokens\": 12}')"


@pytest.fixture
def greedy(tab: Tab, served: Live) -> Tab:
    """A tab whose settings make answers short and repeatable."""
    tab.open(served.url).ready().page.evaluate(GREEDY)
    return tab


def test_a_continuation_with_its_probabilities(greedy: Tab, served: Live, demo: LLM) -> None:
    page = greedy.open(served.url, "complete").page
    page.fill("#text", BEGINNING)
    greedy.press("Continue the text")
    tokens = page.locator(".token")
    wait_until(lambda: tokens.count() == 12)
    greedy.see("12 tokens, ")
    expected = demo.complete(BEGINNING, temperature=0, max_tokens=12, logprobs=6).result()
    text = "".join(tokens.all_inner_texts()).replace("↵\n", "\n").replace("↵", "\n")
    assert text.split() == expected.choices[0].text.split()
    tokens.nth(2).hover()
    rows = page.locator("#tip li")
    shares = [float(t.removesuffix(" %")) for t in rows.locator("span").all_inner_texts()]
    ids = [int(t) for t in rows.locator("small").all_inner_texts()]
    logprobs = expected.choices[0].logprobs
    assert logprobs is not None
    assert ids == [token for token, _ in logprobs[2].top]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.1


def test_another_token_is_gone_on_with(greedy: Tab, served: Live, demo: LLM) -> None:
    page = greedy.open(served.url, "complete").page
    page.fill("#text", BEGINNING)
    page.press("#text", "Control+Enter")
    tokens = page.locator(".token")
    wait_until(lambda: tokens.count() == 12)
    greedy.page.get_by_role("button", name="Continue the text").wait_for()
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    ids = [int(t) for t in page.locator("#tip small").all_inner_texts()]
    first = tokens.nth(0).inner_text()
    page.keyboard.press("2")
    greedy.page.get_by_role("button", name="Continue the text").wait_for()
    wait_until(lambda: tokens.count() == 14)
    assert tokens.nth(0).inner_text() == first
    piece = demo.tokenizer.piece(ids[1]).decode()
    assert tokens.nth(1).inner_text().strip() == piece.strip()
    greedy.press("Add to the text")
    assert page.input_value("#text").startswith(BEGINNING + first + piece)
    assert tokens.count() == 0


def test_a_gap_is_filled_at_the_cursor(greedy: Tab, served: Live, demo: LLM) -> None:
    page = greedy.open(served.url, "infill").page
    prefix, suffix = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
    page.fill("#gap", prefix + suffix)
    page.evaluate(f"document.getElementById('gap').setSelectionRange({len(prefix)}, {len(prefix)})")
    greedy.press("Fill in at the cursor")
    page.get_by_role("button", name="Take it out").wait_for()
    middle = demo.infill(prefix, suffix, temperature=0, max_tokens=12).text()
    assert page.input_value("#gap") == prefix + middle + suffix
    selected = "(a => a.value.slice(a.selectionStart, a.selectionEnd))(document.activeElement)"
    assert page.evaluate(selected) == middle
    greedy.press("Take it out")
    assert page.input_value("#gap") == prefix + suffix


def test_a_model_that_cannot_infill_has_no_such_view(
    tab: Tab, scripted: Live, llm: FakeLLM
) -> None:
    from codellama.errors import UnsupportedError

    def refuse(prefix: str, suffix: str) -> None:
        raise UnsupportedError("no")

    llm.infill_prompt = refuse  # type: ignore[assignment, method-assign]
    tab.open(scripted.url).ready()
    tab.page.get_by_role("link", name="Complete").wait_for()
    wait_until(lambda: tab.page.get_by_role("link", name="Fill in").count() == 0)


def test_the_exact_ids_of_a_question(greedy: Tab, served: Live, demo: LLM) -> None:
    page = greedy.open(served.url, "tokens").page
    question = "Print <step> in Python\n\tß"  # the tag that is typed stays text
    page.fill("#tokentext", question)
    expected = demo.chat_prompt(question).tokens

    def shown() -> list[int]:
        return [int(text) for text in page.locator(".ids small").all_inner_texts()]

    wait_until(lambda: shown() == list(expected))
    control = page.locator(".id.control .piece").all_inner_texts()
    assert control == ["<s>", "<step>", "<step>"]
    greedy.see(f"{len(expected)} tokens; the context holds 1,024")


def test_the_exact_ids_of_a_conversation(greedy: Tab, served: Live, demo: LLM) -> None:
    greedy.ask("hi")
    greedy.answered("")
    answer = greedy.kept()[-1]["text"]
    page = greedy.open(served.url, "tokens").page
    page.get_by_label("Of what").select_option(label="Conversation: hi")
    dialog = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]
    expected = list(demo.chat_prompt(dialog).tokens)  # type: ignore[arg-type]
    wait_until(
        lambda: [int(text) for text in page.locator(".ids small").all_inner_texts()] == expected
    )


def test_the_plan(tab: Tab, scripted: Live, llm: FakeLLM) -> None:
    tab.open(scripted.url, "model").ready()
    tab.see("CUDA0: 1 of 3 layers")
    tab.see("CPU: 2 of 3 layers")
    text = tab.page.locator(".page").inner_text()
    assert llm.plan.model.path.name in text
    assert all(reason in text for reason in llm.plan.reasons)
    widths = [part.bounding_box()["width"] for part in tab.page.locator(".part").all()]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.05)


def test_a_base_model_continues_texts(tab: Tab, scripted: Live, llm: FakeLLM) -> None:
    llm.chat_format = None
    tab.open(scripted.url).ready()
    tab.see("This is a base or Python model")
    tab.page.locator("#text").wait_for()
