#!/bin/sh
# The clients of three APIs take a stream that breaks off in the middle for a whole answer.
#
# Each API marks the end of a stream: [DONE], message_stop, "done": true. If the connection is closed in good
# order before that, the openai, anthropic and ollama clients raise nothing, and give the text so far with no
# reason for its end. So a server that cannot go on must say so within the stream. An error object is raised by
# openai, and by ollama; anthropic raises it only if the line "event: error" comes before it. Without the
# lines "event:" the anthropic client sees nothing of a stream at all, although each event's data has its type.
#
# Of our own: server/generate.py ends a stream that failed with an error event in the dialect's shape, and
# server/streams.py writes the lines "event:".
#
# Seen with openai 3.57.0, anthropic 2.14.0, ollama 0.6.3:
#   openai      broken off           'Hel', ended for None
#   openai      error                APIError
#   anthropic   broken off           'Hel', ended for None
#   anthropic   error                APIStatusError
#   anthropic   error, no "event:"   '', ended for None
#   ollama      broken off           'Hel', ended for None
#   ollama      error                ResponseError
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check \
    openai==3.57.0 anthropic==2.14.0 ollama==0.6.3 >&2 || exit 2

venv/bin/python - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import ollama
import openai


class Stub(BaseHTTPRequestHandler):
    data = ""
    kind = "text/event-stream"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def of_openai():
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
    choices = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    return "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason


def of_anthropic():
    client = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0)
    text, reason = "", None
    for event in client.messages.create(**asked, max_tokens=9, stream=True):
        text += event.delta.text if event.type == "content_block_delta" else ""
        reason = event.delta.stop_reason if event.type == "message_delta" else reason
    return text, reason


def of_ollama():
    parts = list(ollama.Client(host=base).chat(**asked, stream=True))
    return "".join(part.message.content for part in parts), parts[-1].done_reason


def sse(events, named=False):
    return "".join((f"event: {e['type']}\n" if named else "") + f"data: {json.dumps(e)}\n\n" for e in events)


def lines(events):
    return "".join(json.dumps(event) + "\n" for event in events)


chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
chunk["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None}]
message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
message |= {"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
events = [
    {"type": "message_start", "message": message},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
]
part = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "Hel"}}
failure = {"type": "error", "error": {"type": "api_error", "message": "failed"}}
rows = (
    ("openai", "broken off", of_openai, sse([chunk]), "'Hel', ended for None"),
    ("openai", "error", of_openai, sse([chunk, failure]), "APIError"),
    ("anthropic", "broken off", of_anthropic, sse(events, named=True), "'Hel', ended for None"),
    ("anthropic", "error", of_anthropic, sse([*events, failure], named=True), "APIStatusError"),
    ("anthropic", 'error, no "event:"', of_anthropic, sse([*events, failure]), "'', ended for None"),
    ("ollama", "broken off", of_ollama, lines([part | {"done": False}]), "'Hel', ended for None"),
    ("ollama", "error", of_ollama, lines([part | {"done": False}, {"error": "failed"}]), "ResponseError"),
)
wanted = True
for client, what, call, Stub.data, right in rows:
    Stub.kind = "application/x-ndjson" if client == "ollama" else "text/event-stream"
    try:
        text, reason = call()
        seen = f"{text!r}, ended for {reason}"
    except Exception as error:  # what is raised is the finding
        seen = type(error).__name__
    print(f"{client:11} {what:20} {seen}")
    wanted &= seen == right
assert wanted
PY
