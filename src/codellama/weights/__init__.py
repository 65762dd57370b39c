"""Checkpoint to GGUF: any llama.cpp type in one pass, with numpy and ggml, without torch.

- `convert.convert(folder, output, "Q4_K_M")` and `convert.quantize(gguf, output, "Q4_K_M")` do the
  whole job and return a `convert.Report`. Quantizing a GGUF is the same run with a GGUF as the
  source.
- In between: `source` (what is there), `recipe` (which type each tensor gets), `plan` (where each
  byte goes), `writer` (does it).

**Slabs.** The unit of work is the slab, some whole rows of a tensor, in the order in which the
source is read. A slab is read and decoded once and encoded for every output that lacks it. So
several types cost one reading, and a type that two outputs share is encoded once.

**Types.** llama.cpp is asked which type each tensor gets, with a skeleton GGUF. The quantizer's
options go into that question and into nothing else. Some types abort the process when a tensor has
no importance matrix. So where a caller names types, the question is first asked with made-up
importance for all, and the answer is checked. The skeleton cannot show what `leave_output` means
for a checkpoint; that tensor keeps the checkpoint's type.

**Several files.** Which tensors share a file is gguf-split's rule, and keys and names are its too.

**The same bytes.** `provenance` adds keys under `codellama.` at the end of the metadata and writes
a manifest with the SHA-256 of each file. Neither holds a time, a machine's name or a folder, so the
same source and recipe give the same bytes. Only the manifest says whose quantizers made each type,
ours in lanes or ggml's. They make the same bytes. An importance matrix agrees with llama-imatrix's to 5e-4
of a tensor's largest value.

**Adapters.** `adapter` says what a PEFT adapter changes, from headers. `adapter_gguf` makes a file
of it: llama.cpp's bytes, but with peft's scale where that is not alpha / rank. `merge` is a source
whose rows are changed while they are read; its result is rounded once and agrees with peft's
`merge_and_unload` within that. The journal knows the adapters by their SHA-256, the manifest too.

**Meta's files.** `meta` puts rows together from the shares of all its files. Its order of q and k is
llama.cpp's own, so nothing is interleaved. params.json does not say the context: 16384 where the
base of the rope is a million, 4096 where it is ten thousand, as Meta trained them.

**Quantized checkpoints.** `prequantized` finds a dequantizer for each matrix, from the shapes of its parts.
`dequantizers` and `blockwise` make rows in F32 of the stored numbers. Rounded to the type of the scales, they
are what compressed-tensors and bitsandbytes make; MLX rounds twice there. A row of GPTQ's and AWQ's
matrices is a column of the file: stripes of 8 MiB are read and shared by the slabs in them. Numbers of
groups are read with the weights and checked then. Parts of a matrix may lie in several shards; those that
are too far apart to stream are refused on the hub.

**Where the time goes.** Quantizing to Q4_K takes 4.3 ns of one core for a weight, in lanes on AVX-512.
SHA-256 of the output takes 0.27 ns, and all else together 0.3 ns. The hash is made at the end, from the
page cache: it needs the file from front to back, and slabs come in the order of the source. Several
files are hashed at once.

**From the hub.** `Repository` pins the revision to a commit and reads small files and headers only.
A thread then fetches the shards in reading order, two on the disk at most. The requests are ours
and not `hf_hub_download`'s, because that gives up when a server closes the connection in the middle
of a body. A failure that no repetition helps (401, 403, 404) ends the run. Others are repeated from
the byte where they stopped, eight times without progress.

**Interrupted runs.** Beside an output lies its journal until the run is over. Every five seconds
the data is synced, then finished slabs are noted with their CRC-32. The next run with the same plan
believes a slab only if its CRC is right. A slab has one possible encoding and one place, so the
file is the same whatever happened on the way.

**Where our metadata differs from llama.cpp's converter**, because it is wrong for Code Llama or
says nothing:

- A vocabulary with `<step>`: end of turn is the id of `<step>` (theirs: 32010, or nothing), so that
  every program stops there. `<step>` is a control token (theirs: user-defined unless flagged
  special), so typed text never becomes it. The chat template writes `<step>` bare and inserts the
  empty system turn (theirs writes ` <step> `), so that the whole string tokenizes to Meta's ids.
- 7B and 13B, base and Instruct: the ids `fim_pre`, `fim_suf` and `fim_mid` are written.
- 70B base and Python: no end of turn (theirs: 32010), because they were not trained to end with
  one.
- Infill pieces among the added tokens keep their text (theirs is changed, and llama.cpp no longer
  finds them).
- Without tokenizer.model the vocabulary comes from tokenizer.json, for Llama's and Code Llama's
  pieces (theirs has no scores then, and one token too many). Of two files that contradict each
  other neither is believed.
- Errors here and nothing there: ids without a name that are no padding, more pieces than
  `vocab_size`, and weights that are NaN or infinite.
- Tensors and keys stand in the quantizer's order, also for F16 and BF16.
"""
