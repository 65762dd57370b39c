"""Where layers and caches go: what the machine has, how much fits it, and the plan that is made of both.

- `machine.this_machine()` looks at memory and GPUs. It is the only impure function here.
- `planner.plan_load(header, config, machine, draft)` makes a `LoadPlan`, with a reason for each choice.
- `layers` puts layers on devices, `contexts` sizes contexts.
- `shift` and `draft_vocabulary` say what cannot be: a context shift, or a draft model of another family.
- `sizes` reads sizes in a header, `fit` is the arithmetic over plain numbers.

`LLM` carries a plan out with the functions of `running.opening`. Layers are placed from the output layer
downwards, each with its share of the KV cache. A gigabyte and a half is left free on every GPU. llama.cpp
spreads the layers over several GPUs by their free memory, and the plan foresees how.

On a CPU that serves one request at a time attention is llama.cpp's plain one, if its scores take at most
512 MiB. llama.cpp's flash attention reads the whole cache once per row there, so guessed rows gain nothing.
"""
