"""Where layers and caches go: what the machine has, how much fits it, and the plan that is made of both.

- `machine.this_machine()` looks at memory, GPUs and processors; with `host_memory`, `facts` and `processors`,
  which it asks, it is all that is impure.
- `processors` reads what Linux tells of cores, `quota` and `host_memory` what its `control_groups` allow.
  `thread_plan` says how many threads to begin with.
- `planner.plan_load(header, config, machine, draft)` makes a `LoadPlan`, with a reason for each choice.
- `layers` chooses what goes to which device. `fitting` searches, `placement` adds up what then lies where,
  and `compute` knows the scratch memory of llama.cpp's graphs.
- `host_use` decides how weights lie in main memory, `remedies` what would fit where something does not.
- `speed` expects tokens a second from bandwidths, `outlook` puts it together for a file that is not there.
- `doctor` says what is wrong with a machine, and the command that mends it.
- `contexts` sizes contexts, `fit` counts KV cells, `sizes` reads a header.
- `shift` and `draft_vocabulary` say what cannot be: a context shift, or a draft model of another family.

`LLM` carries a plan out with the functions of `running.opening`. Layers are placed from the output layer
downwards, each with its share of the KV cache. Scratch memory is counted on the device where its part of the
graph runs. A gigabyte is left free on every GPU.

On a CPU that serves one request at a time attention is llama.cpp's plain one, if its scores take at most
512 MiB. llama.cpp's flash attention reads the whole cache once per row there, so guessed rows gain nothing.
"""
