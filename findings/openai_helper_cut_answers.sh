#!/bin/sh
# openai's stream helpers raise when a streamed answer was cut by its token limit.
#
# A Responses stream ends with response.incomplete then. The helper's get_final_response() waits for
# response.completed and raises RuntimeError, though it has the whole response in hand. The chat helper raises
# LengthFinishReasonError at finish_reason "length", also where no response_format was asked for.
# Plain create(stream=True) gives every event. So a server that is right breaks programs that use the helpers
# with a small limit; one that sends response.completed with status "incomplete" would not, and is wrong.
#
# Of our own: protocol/responses_reply.py ends a cut answer with response.incomplete, as the API does.
#
# Seen with openai 3.57.0:
#   responses.stream, response.completed          'Hel'
#   responses.stream, response.incomplete         RuntimeError: Didn't receive a `response.completed` event.
#   responses.create, response.incomplete         incomplete 'Hel'
#   chat.completions.stream, finish_reason stop   'Hel'
#   chat.completions.stream, finish_reason length LengthFinishReasonError
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check openai==3.57.0 >&2 || exit 2

venv/bin/python - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

PART = {"type": "output_text", "text": "Hel", "annotations": []}


def responses(status):
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    response = {
        "id": "resp_1", "object": "response", "created_at": 0, "model": "m", "status": "in_progress", "output": [],
        "error": None, "incomplete_details": None, "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
    }
    done = item | {"status": status, "content": [PART]}
    ended = response | {"status": status, "output": [done]}
    if status == "incomplete":
        ended["incomplete_details"] = {"reason": "max_output_tokens"}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", "part": PART | {"text": ""}, **at},
        {"type": "response.output_text.delta", "delta": "Hel", "logprobs": [], **at},
        {"type": "response.output_text.done", "text": "Hel", "logprobs": [], **at},
        {"type": "response.content_part.done", "part": PART, **at},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": f"response.{status}", "response": ended},
    ]
    return [event | {"sequence_number": number} for number, event in enumerate(events)]


def chat(reason):
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    steps = (({"role": "assistant", "content": "Hel"}, None), ({}, reason))
    return [chunk | {"choices": [{"index": 0, "delta": said, "finish_reason": end}]} for said, end in steps]


class Stub(BaseHTTPRequestHandler):
    events = []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in self.events:
            kind = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{kind}data: {json.dumps(event)}\n\n".encode())

    def log_message(self, *_):
        pass


def helper(stream, final):
    try:
        with stream as running:
            list(running)
            return final(running)
    except Exception as error:  # what is raised is the finding
        return f"{type(error).__name__}: {error}".split(": Could not parse")[0]


server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
seen = {}
for status in ("completed", "incomplete"):
    Stub.events = responses(status)
    running = client.responses.stream(model="m", input="hi")
    seen[f"responses.stream, response.{status}"] = helper(
        running, lambda it: repr(it.get_final_response().output_text)
    )
last = list(client.responses.create(model="m", input="hi", stream=True))[-1].response
seen["responses.create, response.incomplete"] = f"{last.status} {last.output_text!r}"
for reason in ("stop", "length"):
    Stub.events = chat(reason)
    running = client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "hi"}])
    seen[f"chat.completions.stream, finish_reason {reason}"] = helper(
        running, lambda it: repr(it.get_final_completion().choices[0].message.content)
    )
for name, line in seen.items():
    print(f"{name:45} {line}")
missed = "RuntimeError: Didn't receive a `response.completed` event."
assert list(seen.values()) == ["'Hel'", missed, "incomplete 'Hel'", "'Hel'", "LengthFinishReasonError"]
PY
