"""A tab of the browser with the page in it: what a person does there, in words."""

from __future__ import annotations

from typing import Any

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TURNS = """async () => {
  const { openDB } = await import('/page/vendor/idb.js');
  const db = await openDB('codellama');
  const turns = await db.getAll('turns');
  db.close();
  return turns;
}"""
SHOWN = """() => [...document.querySelectorAll('.turn')].map((turn) =>
  [turn.classList.contains('user') ? 'user' : 'assistant', turn.querySelector('.text').innerText.trim()])"""


class Tab:
    """A tab. `page` is Playwright's; `errors` are what the page met that it should not have."""

    def __init__(self, profile: Any) -> None:
        self.page = profile.new_page()
        self.errors: list[str] = []
        self.url = ""
        self.expected: tuple[str, ...] = ()
        self.page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        self.page.on("console", self._said)
        self.page.on("request", self._asked)

    def open(self, url: str, view: str = "") -> Tab:
        """Load the page of the server at `url`."""
        self.url = url
        self.page.goto(f"{url}/{view and '#'}{view}")
        return self

    def check(self) -> None:
        """Nothing went wrong, and nothing came from elsewhere."""
        unexpected = [e for e in self.errors if not any(part in e for part in self.expected)]
        assert unexpected == []

    def ask(self, question: str) -> None:
        """Type a question and send it; does not wait for the answer."""
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")

    def answered(self, text: str, n: int = 0) -> None:
        """Wait until the `n`th answer (0: the last one) is complete and has this text."""
        places = self.page.locator(".turn.assistant")
        place = places.nth(n - 1) if n else places.last
        place.locator(".text", has_text=text).wait_for()
        place.get_by_role("button", name="Again").wait_for()

    def press(self, name: str, **options: Any) -> None:
        """Press the button of this name."""
        self.page.get_by_role("button", name=name, exact=True, **options).click()

    def see(self, text: str) -> None:
        """Wait until this text is to be seen."""
        self.page.get_by_text(text).first.wait_for()

    @property
    def state(self) -> str:
        """What the page knows of the server."""
        return str(self.page.locator("#state").get_attribute("data-state"))

    def ready(self, deadline_s: float = 60.0) -> Tab:
        """Wait until the server is."""
        self.page.locator("#state[data-state=ready]").wait_for(timeout=1000 * deadline_s)
        return self

    def shown(self) -> list[tuple[str, str]]:
        """The turns on the page: who, and what stands there."""
        return [(kind, text) for kind, text in self.page.evaluate(SHOWN)]

    def kept(self) -> list[dict[str, Any]]:
        """All turns in the browser's database, oldest first."""
        return sorted(self.page.evaluate(TURNS), key=lambda turn: turn["at"])

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"console: {message.text}")

    def _asked(self, request: Any) -> None:
        if self.url and not request.url.startswith((self.url, "blob:", "about:")):
            self.errors.append(f"asked: {request.url}")
