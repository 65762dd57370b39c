"""Checkpoint to GGUF: any llama.cpp type in one pass, with numpy and ggml, without torch.

- `convert.convert(folder, output, "Q4_K_M")` and `convert.quantize(gguf, output, "Q4_K_M")` do the whole
  job and return a `convert.Report`.
- In between: `source` (what is there), `recipe` (which type each tensor gets), `plan` (where each byte
  goes), `writer` (does it).
- `gguf_header.read_gguf_header(path)` reads the header of any GGUF, strictly and without loading it.
"""
