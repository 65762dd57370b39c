"""Strangers' files, read strictly: GGUF, safetensors, SentencePiece, importance matrices, small JSON.

Nothing in a file is believed before it is checked, in this order:

- `small_files`: a file beside the weights is small or refused unread. JSON is UTF-8, has each name once,
  no NaN, no number of thousands of digits, no half of a surrogate pair, and a bounded size and depth.
- `safetensors_header`, `gguf_header`, `sentencepiece_model`, `imatrix_file`: every length against the bytes
  that are there, every byte accounted for, names printable, memory bounded before it is used.
- `gguf_schema`: a known key has the type that its readers rely on.
- `loadable`: what llama.cpp asserts, or computes with unchecked.

`LLM`, `tokenize`, `imatrix` and `quantize` hand nothing to llama.cpp that has not passed.
"""
