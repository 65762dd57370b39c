"""The page for browsers as it is served: who gets it, with which headers, and what its files are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from codellama.server.browser import FOLDER, MEDIA_TYPES, read_page
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM
from tests.live_server import Live, running

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
OTHERS = ["*/*", "application/json", "text/plain", "", "application/xhtml+xml"]
LARGEST = 400_000  # bytes, all files together
MOST_LINES = 400
OURS = sorted(p for p in FOLDER.glob("*") if p.suffix in MEDIA_TYPES)
VENDORED = FOLDER / "vendor" / "VENDORED.md"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with running(FakeLLM) as live:
        yield live


@pytest.fixture(scope="module")
def locked() -> Iterator[Live]:
    with running(FakeLLM, ServerConfig(port=0, api_keys=("secret",))) as live:
        yield live


def get(live: Live, path: str, **headers: str) -> httpx.Response:
    return httpx.get(live.url + path, headers=headers, timeout=60)


def test_a_browser_gets_the_page(live: Live) -> None:
    page = get(live, "/", accept=CHROMIUM)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert '<main id="main"' in page.text
    for path in re.findall(r'(?:href|src)="([^"]+)"', page.text):
        assert not path.startswith(("/", "http")), "the page may be mounted below a prefix"
        assert get(live, f"/{path}").status_code == 200


@pytest.mark.parametrize("accept", OTHERS)
def test_other_clients_get_what_ollama_says(live: Live, accept: str) -> None:
    answer = get(live, "/", accept=accept)
    assert answer.text == "codellama is running"
    assert answer.headers["vary"] == "accept"


def test_nothing_from_elsewhere_and_nothing_inline(live: Live) -> None:
    for path in ("/", "/page/main.js"):
        headers = get(live, path, accept=CHROMIUM).headers
        rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert rules.pop("require-trusted-types-for") == "'script'"
        assert rules.pop("trusted-types") == "dompurify"
        assert set(rules.values()) == {"'none'", "'self'"}
        assert (rules["default-src"], rules["script-src"], rules["frame-ancestors"]) == (
            "'none'",
            "'self'",
            "'none'",
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    html = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)|<style", html)


def test_a_file_that_a_browser_has_is_not_sent_again(live: Live) -> None:
    first = get(live, "/page/main.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = get(live, "/page/main.js", **{"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert get(live, "/page/main.js", **{"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/%2e%2e/app.py",
        "/page/..%2fapp.py",
        "/page/vendor/..%2f..%2fapp.py",
        "/page//etc/hostname",
        "/page/vendor/VENDORED.md",
        "/page/vendor/",
        "/page/",
        "/page/nothing.js",
    ],
)
def test_no_path_leads_elsewhere(live: Live, path: str) -> None:
    with httpx.Client(base_url=live.url) as client:
        request = client.build_request("GET", live.url)
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = client.send(request)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_the_page_needs_no_key_and_everything_else_does(locked: Live) -> None:
    assert get(locked, "/", accept=CHROMIUM).status_code == 200
    assert get(locked, "/page/main.js").status_code == 200
    assert get(locked, "/").status_code == 401
    for path in ("/props", "/v1/models", "/slots", "/pages", "/page"):
        assert get(locked, path, accept=CHROMIUM).status_code == 401
    assert locked.post("/page/main.js").status_code == 405


def test_no_page() -> None:
    with running(FakeLLM, ServerConfig(port=0, page=False, api_keys=("secret",))) as live:
        assert get(live, "/", accept=CHROMIUM).status_code == 401
        key = {"authorization": "Bearer secret", "accept": CHROMIUM}
        assert get(live, "/", **key).text == "codellama is running"
        assert get(live, "/page/main.js", **key).status_code == 404


def test_a_foreign_name_gets_no_page(live: Live) -> None:
    assert get(live, "/", accept=CHROMIUM, host="evil.example").status_code == 403


# -- the files --------------------------------------------------------------------------------


def test_the_page_stays_small() -> None:
    assert sum(len(file.content) for file in read_page().values()) < LARGEST


@pytest.mark.parametrize("path", OURS, ids=lambda p: p.name)
def test_the_files_stay_readable(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    if path.suffix in (".js", ".css"):
        assert text.startswith(("//", "/*")), "a file says what it is for"
    assert not re.search(
        r"innerHTML|outerHTML *=|insertAdjacentHTML|document\.write|\beval\(", text
    )


def test_what_is_imported_is_there() -> None:
    for path in OURS:
        for name in re.findall(r'from "(\./[^"]+)"|import "(\./[^"]+)"', path.read_text("utf-8")):
            assert (path.parent / (name[0] or name[1])).is_file(), f"{path.name}: {name}"


def test_the_libraries_are_as_they_were_published() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .* \| `([0-9a-f]{64})` \|$", VENDORED.read_text(), re.M)
    vendor = VENDORED.parent
    files = {path.relative_to(vendor).as_posix() for path in vendor.rglob("*.js")}
    assert {name for name, _ in rows} == files
    for name, digest in rows:
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest, name
    for licence in re.findall(r"\((\w+\.LICENSE)\)", VENDORED.read_text()):
        assert (vendor / licence).is_file()
