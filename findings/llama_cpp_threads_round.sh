#!/bin/sh
# llama.cpp's flash attention on a CPU gives other logits for another number of threads, but only behind 256 tokens.
#
# A step of one token, as in every answer, is cut by cells of the cache: each thread takes a part, and the parts are
# added up. So the logits depend on the number of threads. It begins at 512 cells, and cells are counted in blocks
# of 256. Below that, with plain attention and for prompts, every number of threads gives the same bits. The cache is
# F16, and so are the sums: the logits here differ by 0.01. An answer that was drawn with a seed may become another
# one on a machine with more cores, or when the number of threads follows what else the machine does.
#
# Of our own: engine/threads.py keeps the number of threads in such steps of requests that are to repeat. A model
# for one request at a time has plain attention on a CPU.
#
# Seen with llama-cpp-python 0.3.36, gguf 0.19.0 and 1, 2, 3 and 4 threads:
#   attention   255 tokens   256 tokens   prompt of 700
#   flash       same bits    1e-02        same bits
#   plain       same bits    same bits    same bits
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# llama-cpp-python is built, for some minutes.
venv/bin/python -m pip install -q --disable-pip-version-check gguf==0.19.0 numpy==2.4.6 \
    llama-cpp-python==0.3.36 >&2 || exit 2

venv/bin/python - 2>errors <<'PY' || { tail -40 errors >&2; exit 1; }
import ctypes

import gguf
import llama_cpp
import numpy as np

WIDTH, HEADS, FFN, VOCABULARY, THREADS = 256, 4, 512, 300, (1, 2, 3, 4)


def write(path):
    """A Llama of one layer with random weights and a vocabulary of bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *(f"x{i}" for i in range(41))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 41])
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, WIDTH), "output": (VOCABULARY, WIDTH), "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH, WIDTH), "blk.0.attn_v": (WIDTH, WIDTH), "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (FFN, WIDTH), "blk.0.ffn_up": (FFN, WIDTH), "blk.0.ffn_down": (WIDTH, FFN),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.1, shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write("model.gguf")
llama_cpp.llama_backend_init()
model = llama_cpp.llama_model_load_from_file(b"model.gguf", llama_cpp.llama_model_default_params())
assert model


def logits(kind, n_tokens, prompt_threads, answer_threads):
    """Logits behind a prompt of so many tokens, and behind one more token."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 1024
    params.flash_attn_type = {"flash": 1, "plain": 0}[kind]
    params.n_threads, params.n_threads_batch = answer_threads, prompt_threads
    context = llama_cpp.llama_init_from_model(model, params)
    assert context
    found = []
    for tokens in ([3 + 7 * i % 290 for i in range(n_tokens)], [5]):
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, len(tokens))) == 0
        found.append(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (VOCABULARY,)).copy())
    llama_cpp.llama_free(context)
    return found


def differ(rows):
    """The largest difference from the first, or that there is none."""
    most = max(float(np.abs(row - rows[0]).max()) for row in rows)
    return f"{most:.0e}" if most else "same bits"


print("attention   255 tokens   256 tokens   prompt of 700")
seen = {}
for kind in ("flash", "plain"):
    one_more = {n: [logits(kind, n, 1, t)[1] for t in THREADS] for n in (255, 256)}
    prompt = [logits(kind, 700, t, 1)[0] for t in THREADS]
    assert np.ptp(prompt[0]) > 1 and np.isfinite(prompt[0]).all(), "the model computes"
    seen[kind] = [differ(one_more[255]), differ(one_more[256]), differ(prompt)]
    print(f"{kind:11} {seen[kind][0]:12} {seen[kind][1]:12} {seen[kind][2]}")
assert seen["plain"] == ["same bits"] * 3
assert seen["flash"][0] == seen["flash"][2] == "same bits"
assert seen["flash"][1] != "same bits"
PY
