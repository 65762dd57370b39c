#!/bin/sh
# llama.cpp converts and loads a LoRA adapter that trained the norms too, and leaves the norms out.
#
# peft keeps modules that were trained whole (modules_to_save) in the adapter's file. convert_lora_to_gguf.py takes
# norms among them: they are in the GGUF under the model's own names. When the adapter is loaded, llama.cpp passes
# over every tensor whose name ends in _norm.weight. The answers are those of the low-rank part alone. The converter
# ends with "successfully exported", and loading says nothing about norms.
#
# Of our own: running/adapter_files.py refuses such a GGUF unless its norms are those of the model.
#
# Seen with llama-cpp-python 0.3.36 and its llama.cpp, peft 0.21.2, torch 2.13.0:
#   in the file     blk.0.attn_norm.weight, blk.0.ffn_norm.weight, output_norm.weight
#   when loading    0 lines about norms
#   logits          0.45 from peft's; 2e-07 from peft's before the norms were trained
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# llama-cpp-python is built, for some minutes; peft and the converter need torch, any build of it.
venv/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 transformers==4.57.6 peft==0.21.2 \
    sentencepiece==0.2.3 pyyaml requests llama-cpp-python==0.3.36 >&2 || exit 2
venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
    -d . llama-cpp-python==0.3.36 >&2 || exit 2
tar -xzf llama_cpp_python-0.3.36.tar.gz

venv/bin/python - 2>errors <<'PY' || { tail -40 errors >&2; exit 1; }
import ctypes
import subprocess
import sys

import llama_cpp
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

LLAMA_CPP = "llama_cpp_python-0.3.36/vendor/llama.cpp"
sys.path.insert(0, f"{LLAMA_CPP}/gguf-py")
import gguf

WIDTH, HEADS, FFN, VOCABULARY = 64, 2, 128, 300
TOKENS = [1, 20, 40, 60, 80, 100, 120, 140]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
torch.manual_seed(1)
base = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=1,
        num_attention_heads=HEADS, rms_norm_eps=1e-5, max_position_embeddings=512,
    )
).eval()
base.save_pretrained("base")


def write(path):
    """The base as llama.cpp keeps it, with a vocabulary of bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
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
    tensors = {name: tensor.detach().numpy() for name, tensor in base.state_dict().items()}
    writer.add_tensor("token_embd.weight", tensors["model.embed_tokens.weight"])
    writer.add_tensor("output.weight", tensors["lm_head.weight"])
    writer.add_tensor("output_norm.weight", tensors["model.norm.weight"])
    for theirs, ours in NAMES.items():
        tensor = tensors[f"model.layers.0.{theirs}.weight"]
        if ours in ("attn_q", "attn_k"):  # llama.cpp turns neighbours, transformers turns halves
            tensor = tensor.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH).swapaxes(1, 2).reshape(WIDTH, WIDTH)
        writer.add_tensor(f"blk.0.{ours}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(adapter=None):
    """llama.cpp's, and what it says while it loads the adapter."""
    model = llama_cpp.Llama("base.gguf", n_ctx=64, logits_all=True, type_k=0, type_v=0, verbose=False)
    said = []
    if adapter:
        log = llama_cpp.llama_log_callback(lambda level, text, data: said.append(text.decode()))
        llama_cpp.llama_log_set(log, None)
        loaded = llama_cpp.llama_adapter_lora_init(model._model.model, adapter.encode())
        assert loaded
        llama_cpp.llama_log_set(quiet, None)
        one, scale = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded), (ctypes.c_float * 1)(1.0)
        assert llama_cpp.llama_set_adapters_lora(model._ctx.ctx, one, 1, scale) == 0
    model.eval(TOKENS)
    return np.array(model.scores[: len(TOKENS)]), "".join(said)


def of(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)

write("base.gguf")
plain = of(base)
config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], modules_to_save=["norm"], init_lora_weights=False)
trained = get_peft_model(base, config).eval()
low_rank = of(trained)
with torch.no_grad():
    for name, weight in trained.named_parameters():
        if "norm" in name and "modules_to_save" in name:
            weight += torch.rand_like(weight)
both = of(trained)
trained.save_pretrained("adapter")
command = [f"{LLAMA_CPP}/convert_lora_to_gguf.py", "adapter", "--base", "base", "--outtype", "f32"]
done = subprocess.run(
    [sys.executable, *command, "--outfile", "adapter.gguf"], check=True, capture_output=True, text=True
)
assert "norm" not in done.stderr.lower().replace("_norm.weight", ""), "it would say so here"
norms = [t.name for t in gguf.GGUFReader("adapter.gguf").tensors if t.name.endswith("_norm.weight")]
assert np.abs(logits()[0] - plain).max() < 1e-4, "the two compute the same model"
found, said = logits("adapter.gguf")
off, off_low_rank = float(np.abs(found - both).max()), float(np.abs(found - low_rank).max())
lines = sum("norm" in line for line in said.splitlines())
print(f"in the file     {', '.join(sorted(norms))}")
print(f"when loading    {lines} lines about norms")
print(f"logits          {off:.2g} from peft's; {off_low_rank:.0e} from peft's before the norms were trained")
assert len(norms) == 3 and said and lines == 0
assert np.abs(low_rank - plain).max() > 0.01, "the low-rank part does something"
assert off > 0.1 and off_low_rank < 1e-4
PY
