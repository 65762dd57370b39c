#!/bin/sh
# llama.cpp's convert_lora_to_gguf.py takes no notice of use_rslora and alpha_pattern.
#
# A LoRA GGUF has one alpha, and llama.cpp scales the change by alpha / rank. peft scales by alpha / sqrt(rank)
# if use_rslora is set, and by another alpha where alpha_pattern names a module. The converter writes lora_alpha
# and the unchanged tensors in all three cases: an adapter that peft applies with 8 is applied with 2.
# It ends with "successfully exported", and nothing in the file tells which kind the adapter was.
#
# Of our own: weights/adapter_gguf.py puts peft's scale into the file's alpha, and into B where modules differ.
#
# Seen with the llama.cpp in llama-cpp-python 0.3.36, peft 0.21.2, torch 2.13.0, rank 16 and lora_alpha 32:
#   plain           peft: q_proj 2, v_proj 2        GGUF: alpha / rank = 2    tensors as in plain: True
#   use_rslora      peft: q_proj 8, v_proj 8        GGUF: alpha / rank = 2    tensors as in plain: True
#   alpha_pattern   peft: q_proj 2, v_proj 0.25     GGUF: alpha / rank = 2    tensors as in plain: True
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# peft and the converter need torch; any build of it will do.
venv/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 transformers==4.57.6 \
    peft==0.21.2 sentencepiece==0.2.3 pyyaml requests >&2 || exit 2
venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
    -d . llama-cpp-python==0.3.36 >&2 || exit 2
tar -xzf llama_cpp_python-0.3.36.tar.gz

venv/bin/python - <<'PY'
import subprocess
import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

LLAMA_CPP = "llama_cpp_python-0.3.36/vendor/llama.cpp"
sys.path.insert(0, f"{LLAMA_CPP}/gguf-py")
import gguf

shape = LlamaConfig(
    vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
)
LlamaForCausalLM(shape).save_pretrained("base")


def made(name, **settings):
    torch.manual_seed(1)
    config = LoraConfig(
        r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings
    )
    model = get_peft_model(LlamaForCausalLM(shape), config)
    model.save_pretrained(name)
    layer = model.base_model.model.model.layers[0].self_attn
    scales = {module: getattr(layer, module).scaling["default"] for module in ("q_proj", "v_proj")}
    command = [f"{LLAMA_CPP}/convert_lora_to_gguf.py", name, "--base", "base", "--outtype", "f32"]
    command += ["--outfile", f"{name}.gguf"]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    reader = gguf.GGUFReader(f"{name}.gguf")
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    return scales, reader.get_field("adapter.lora.alpha").contents() / 16, tensors


plain = made("plain")
for name, settings, wanted in (
    ("plain", {}, [2, 2]),
    ("use_rslora", {"use_rslora": True}, [8, 8]),
    ("alpha_pattern", {"alpha_pattern": {"v_proj": 4}}, [2, 0.25]),
):
    scales, scale, tensors = made(name, **settings)
    equal = all(np.array_equal(tensors[key], plain[2][key]) for key in plain[2])
    said = ", ".join(f"{module} {number:g}" for module, number in scales.items())
    print(f"{name:15} peft: {said:25} GGUF: alpha / rank = {scale:g}    tensors as in plain: {equal}")
    assert list(scales.values()) == wanted and scale == 2 and equal
PY
