#!/bin/sh
# mlx-lm's GGUF export writes token types that llama.cpp refuses, and no scores.
#
# They are UINT32 where llama.cpp, gguf-py and the format's description have INT32: llama.cpp refuses every model
# that `mlx_lm fuse --export-gguf` makes. Mended types would not be enough, as every score is -1000. A vocabulary
# "llama" is cut by its scores, and the model's folder had them, in tokenizer.model. The export ends with
# "Converted GGUF model saved".
#
# Of our own: files/gguf_schema.py names mlx-lm where it meets such a file, and the folder to convert instead.
#
# Seen with mlx-lm 0.32.2, mlx 0.32.4 on Linux, transformers 5.24.0, gguf 0.19.0 and llama-cpp-python 0.3.36:
#   scores in tokenizer.model     0 to -60
#   tokenizer.ggml.scores         -1000 to -1000
#   tokenizer.ggml.token_type     array of UINT32
#   llama.cpp                     invalid gguf type for tokenizer.ggml.token_type
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# llama-cpp-python is built, for some minutes.
venv/bin/python -m pip install -q --disable-pip-version-check 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 transformers==5.24.0 \
    sentencepiece==0.2.3 gguf==0.19.0 llama-cpp-python==0.3.36 >&2 || exit 2
cat > make.py <<'PY'
"""A folder with a Llama of one layer and random weights, and a text to train an adapter on."""
import json
import random
from pathlib import Path

import numpy as np
import sentencepiece
from safetensors.numpy import save_file

WIDTH, FFN, VOCABULARY = 64, 128, 320
rng = np.random.default_rng(0)
folder = Path("model")
folder.mkdir()
letters = random.Random(0)
words = ["".join(letters.choices("abcdefgh", k=5)) for _ in range(400)]
Path("corpus.txt").write_text("\n".join(" ".join(letters.choices(words, k=8)) for _ in range(400)))
sentencepiece.SentencePieceTrainer.train(
    input="corpus.txt", model_prefix="model/tokenizer", model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True,
    minloglevel=2,
)
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": FFN,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY, "max_position_embeddings": 512, "rope_theta": 1e6, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False, "torch_dtype": "float16",
}
(folder / "config.json").write_text(json.dumps(config))
(folder / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
)
layer = "model.layers.0."
shapes = {"model.embed_tokens": (VOCABULARY, WIDTH), "lm_head": (VOCABULARY, WIDTH)}
shapes |= {f"{layer}self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"}
shapes |= {f"{layer}mlp.{name}_proj": (FFN, WIDTH) for name in ("gate", "up")}
shapes |= {f"{layer}mlp.down_proj": (WIDTH, FFN)}
tensors = {f"{name}.weight": rng.normal(0, 0.1, shape).astype(np.float16) for name, shape in shapes.items()}
for name in (f"{layer}input_layernorm", f"{layer}post_attention_layernorm", "model.norm"):
    tensors[f"{name}.weight"] = np.ones(WIDTH, np.float16)
save_file(tensors, folder / "model.safetensors", {"format": "pt"})
data = Path("data")
data.mkdir()
for name in ("train", "valid"):
    (data / f"{name}.jsonl").write_text("".join(json.dumps({"text": "abcde fgh " * 5}) + "\n" for _ in range(8)))
PY
venv/bin/python make.py >&2
venv/bin/python -m mlx_lm lora --model model --train --data data --iters 1 --batch-size 1 --num-layers 1 \
    --adapter-path adapter >log 2>&1 || { tail -20 log >&2; exit 1; }
venv/bin/python -m mlx_lm fuse --model model --adapter-path adapter --save-path fused --export-gguf \
    --gguf-path "$work/fused.gguf" >log 2>&1 || { tail -20 log >&2; exit 1; }

venv/bin/python - <<'PY'
import gguf
import llama_cpp
import sentencepiece

pieces = sentencepiece.SentencePieceProcessor("model/tokenizer.model")
right = [pieces.get_score(i) for i in range(len(pieces))]
reader = gguf.GGUFReader("fused.gguf")
kind = reader.get_field("tokenizer.ggml.token_type").types[-1].name
scores = reader.get_field("tokenizer.ggml.scores").contents()

said = []
log = llama_cpp.llama_log_callback(lambda level, text, data: said.append(text.decode()))
llama_cpp.llama_backend_init()
llama_cpp.llama_log_set(log, None)
model = llama_cpp.llama_model_load_from_file(b"fused.gguf", llama_cpp.llama_model_default_params())
reason = next(line for line in "".join(said).splitlines() if "error loading model vocabulary" in line)
reason = reason.rpartition("vocabulary: ")[2]

print(f"scores in tokenizer.model     {max(right):g} to {min(right):g}")
print(f"tokenizer.ggml.scores         {max(scores):g} to {min(scores):g}")
print(f"tokenizer.ggml.token_type     array of {kind}")
print(f"llama.cpp                     {reason}")
assert len(set(right)) > 2 and set(scores) == {-1000.0} and kind == "UINT32"
assert not model and reason == "invalid gguf type for tokenizer.ggml.token_type"
PY
