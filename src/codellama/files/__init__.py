"""Strangers' files, read strictly: GGUF, safetensors, torch's, PEFT's, SentencePiece, imatrix, JSON.

Nothing in a file is believed before it is checked, in this order:

- `small_files`: a file beside the weights is small or refused unread. JSON is UTF-8, has each name
  once, no NaN, no number of thousands of digits, no half of a surrogate pair, and a bounded size
  and depth.
- `safetensors_header`, `gguf_header`, `sentencepiece_model`, `imatrix_file`: every length against
  the bytes that are there, every byte accounted for, names printable, memory bounded before it is
  used.
- `torch_zip`, `torch_pickle`, `torch_file`: the same for what `torch.save` writes. Pickle is a
  program, so a machine of ours runs it that knows tensors and nothing else; Python's is not used.
- `peft_adapter`: a setting or a tensor that is not known is an error that names it.
- `gguf_schema`: a known key has the type that its readers rely on.
- `loadable`: what llama.cpp asserts, or computes with unchecked.

`LLM`, `tokenize`, `imatrix` and `quantize` hand nothing to llama.cpp that has not passed.

llama.cpp throws for most bad files. But it ends the process for some:

- hyperparameters: no layers, expert counts that do not go together, an unknown RoPE scaling, a
  negative epsilon.
- vocabularies: two tokens of the same text, a NUL in one, a missing byte token.
- tensors: data at an odd place, vectors that are not F32, integer matrices.
- adapters: keys with another type.

A model that is served is dense and has a SentencePiece vocabulary, as every Code
Llama has. Other GGUFs of the architecture can be quantized.

`tests/fuzzing` mutates files of every kind, by structure and by byte, and reads them in a process
whose memory and time per file are limited. GGUFs that pass are loaded and asked for three tokens in
a process that must not die.
"""
