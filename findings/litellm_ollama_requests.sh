#!/bin/sh
# litellm's Ollama providers post JSON without a Content-Type, and "ollama/" writes a prompt of its own.
#
# A server that insists on application/json, as protects it from web pages, refuses both providers.
# With "ollama_chat/" the messages arrive as they are. With "ollama/", which looks like the plain choice,
# litellm calls /api/generate with one prompt in a form of its own ("### User:"): the server no longer has the
# messages, and cannot put them into the model's own format.
#
# Of our own: server/guard.py takes a body without a Content-Type if no browser can have sent it.
#
# Seen with litellm 1.110.2:
#   ollama_chat/m   /api/chat       Content-Type None   messages [{'role': 'user', 'content': 'hi', 'images': []}]
#   ollama/m        /api/generate   Content-Type None   prompt '### User:\nhi\n\n'
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check litellm==1.110.2 >&2 || exit 2

LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python - 2>errors <<'PY' || { cat errors >&2; exit 1; }
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm


class Stub(BaseHTTPRequestHandler):
    requests = []

    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((self.path, self.headers["Content-Type"], sent))
        end = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "stop"}
        answer = end | {"prompt_eval_count": 1, "eval_count": 1}
        answer |= {"message": {"role": "assistant", "content": "hey"}, "response": "hey"}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
seen = []
for model in ("ollama_chat/m", "ollama/m"):
    litellm.completion(model=model, messages=[{"role": "user", "content": "hi"}], api_base=base)
    # It asks for /api/show from a thread of its own, whenever that runs.
    path, kind, body = [request for request in Stub.requests if request[0] != "/api/show"][-1]
    said = next(f"{key} {body[key]!r}" for key in ("messages", "prompt") if key in body)
    print(f"{model:15} {path:15} Content-Type {kind!s:6} {said}")
    seen.append((path, kind, said))
message = {"role": "user", "content": "hi", "images": []}
assert seen == [
    ("/api/chat", None, f"messages {[message]!r}"),
    ("/api/generate", None, r"prompt '### User:\nhi\n\n'"),
]
PY
