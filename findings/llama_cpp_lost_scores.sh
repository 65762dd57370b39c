#!/bin/sh
# llama.cpp's converter makes a vocabulary without scores of a Llama folder that transformers 5 has saved.
#
# transformers 5 saves a tokenizer.json and no tokenizer.model, also where it read the latter. The converter
# then takes another way: every score becomes -1000. In a GGUF of model "llama" scores decide how text is cut,
# so the model is fed other tokens than those it was trained with. <unk> becomes a control token too.
# With class CodeLlamaTokenizer there is one token more than the embedding has rows: transformers 5 adds
# <FILL_ME>, a mark that its own code looks for in prompts, as a token. The converter says "successfully exported".
#
# Of our own: files/lost_scores.py gives such a GGUF Llama's scores back, with a warning. `codellama convert`
# takes the vocabulary from tokenizer.json with the scores that belong to the ids, without <FILL_ME>.
#
# Seen with the llama.cpp in llama-cpp-python 0.3.36, transformers 5.24.0 and torch 2.13.0:
#   tokenizer.model       278 tokens, 16 different scores, <unk> of type 2, embedding of 278 rows
#   LlamaTokenizer        278 tokens, all scores -1000, <unk> of type 3, embedding of 278 rows
#   CodeLlamaTokenizer    279 tokens, all scores -1000, <unk> of type 3, embedding of 278 rows
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# The converter needs torch; any build of it will do.
venv/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 \
    sentencepiece==0.2.3 protobuf==7.36.2 pyyaml requests >&2 || exit 2
venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
    -d . llama-cpp-python==0.3.36 >&2 || exit 2
tar -xzf llama_cpp_python-0.3.36.tar.gz

venv/bin/python - 2>errors <<'PY' || { cat errors >&2; exit 1; }
import json
import pathlib
import subprocess
import sys

import sentencepiece.sentencepiece_model_pb2 as proto
import transformers

LLAMA_CPP = "llama_cpp_python-0.3.36/vendor/llama.cpp"
sys.path.insert(0, f"{LLAMA_CPP}/gguf-py")
import gguf

model = proto.ModelProto()
model.trainer_spec.model_type = proto.TrainerSpec.BPE
model.trainer_spec.byte_fallback = True
pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{byte:02X}>", 6) for byte in range(256))]
words = ["re", "tu", "rn", "turn", "return", "\u2581return", *"retun", "\u2581", "x"]
pieces += [(f"\u2581<{name}>", 1) for name in ("PRE", "SUF", "MID", "EOT")] + [(word, 1) for word in words]
pieces += [("xx", 1), ("xxx", 1)]
for number, (text, kind) in enumerate(pieces):
    model.pieces.add(piece=text, type=kind, score=-float(max(0, number - 262)))
ROWS = len(pieces)


def converted(folder):
    shape = transformers.LlamaConfig(
        vocab_size=ROWS, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(shape).save_pretrained(folder)
    command = [f"{LLAMA_CPP}/convert_hf_to_gguf.py", folder, "--outtype", "f32", "--outfile", f"{folder}.gguf"]
    subprocess.run([sys.executable, *command], check=True)
    reader = gguf.GGUFReader(f"{folder}.gguf")
    field = {key: reader.get_field(f"tokenizer.ggml.{key}").contents() for key in ("tokens", "scores", "token_type")}
    rows = next(int(tensor.shape[1]) for tensor in reader.tensors if tensor.name == "token_embd.weight")
    scores = set(field["scores"])
    said = "all scores -1000" if scores == {-1000.0} else f"{len(scores)} different scores"
    return f"{len(field['tokens'])} tokens, {said}, <unk> of type {field['token_type'][0]}, embedding of {rows} rows"


def original(folder, kind):
    path = pathlib.Path(folder)
    path.mkdir()
    (path / "tokenizer.model").write_bytes(model.SerializeToString())
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    return folder


seen = {"tokenizer.model": converted(original("whole", "LlamaTokenizer"))}
for kind in ("LlamaTokenizer", "CodeLlamaTokenizer"):
    transformers.AutoTokenizer.from_pretrained(original(f"of{kind}", kind)).save_pretrained(kind)
    assert not pathlib.Path(kind, "tokenizer.model").exists()
    seen[kind] = converted(kind)
for name, line in seen.items():
    print(f"{name:20}  {line}")
lost = "tokens, all scores -1000, <unk> of type 3, embedding of"
assert seen["LlamaTokenizer"] == f"{ROWS} {lost} {ROWS} rows"
assert seen["CodeLlamaTokenizer"] == f"{ROWS + 1} {lost} {ROWS} rows"
assert "all scores" not in seen["tokenizer.model"]
PY
