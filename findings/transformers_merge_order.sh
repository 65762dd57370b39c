#!/bin/sh
# transformers 5 makes a tokenizer.json of a tokenizer.model and orders its merges by the ids of the pieces.
#
# SentencePiece merges the pair with the best score first. Llama's pieces of spaces only have the score -1e9:
# they are to merge last, although their ids are among the lowest. transformers 5.24.0 takes the order of the
# ids for the order of the merges, so spaces merge first. The space in front of a word is then no longer there
# for the word, and indented code becomes other tokens than those the model was trained with.
# transformers 4.57.6 took the scores. Nothing warns; the file that save_pretrained writes keeps the order.
#
# Of our own: files/tokenizer_json.py takes texts and ids from such a file, never the order of its merges;
# files/llama_pieces.py knows Llama's scores from the ids.
#
# Seen with transformers 5.24.0, sentencepiece 0.2.2 and seven pieces of our own behind the usual 259:
#   SentencePiece      ['▁▁▁▁', '▁return', '▁', 'x']
#   transformers       ['▁▁▁▁', 'return', '▁', 'x']
#   its first merge    ['▁', '▁']
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check \
    transformers==5.24.0 sentencepiece==0.2.2 protobuf==6.33.6 >&2 || exit 2

venv/bin/python - 2>errors <<'PY' || { cat errors >&2; exit 1; }
import json

import sentencepiece
import sentencepiece.sentencepiece_model_pb2 as proto
import transformers

SPACE = "\u2581"
model = proto.ModelProto()
model.trainer_spec.model_type = proto.TrainerSpec.BPE
model.trainer_spec.byte_fallback = True
model.normalizer_spec.name = "identity"
model.normalizer_spec.remove_extra_whitespaces = False
pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
words = [SPACE * 2, "re", "tu", "rn", "turn", "return", SPACE + "return", SPACE * 4, SPACE, *"retunx"]
for number, text in enumerate(words):
    pieces.append((text, -1e9 if set(text) == {SPACE} else -float(number), 1))
for text, score, kind in pieces:
    model.pieces.add(piece=text, score=score, type=kind)
with open("tokenizer.model", "wb") as file:
    file.write(model.SerializeToString())
for name, values in (("config", {"model_type": "llama"}), ("tokenizer_config", {"tokenizer_class": "LlamaTokenizer"})):
    with open(f"{name}.json", "w") as file:
        json.dump(values, file)

text = "    return x"
right = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model").encode(text, out_type=str)
tokenizer = transformers.AutoTokenizer.from_pretrained(".")
seen = tokenizer.tokenize(text)
merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
print("SentencePiece     ", right)
print("transformers      ", seen)
print("its first merge   ", merges[0])
assert right == [SPACE * 4, SPACE + "return", SPACE, "x"]
assert seen == [SPACE * 4, "return", SPACE, "x"]
assert merges[0] == [SPACE, SPACE]
PY
