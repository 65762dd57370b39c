"""The rooms, with `integrations`, that import llama_cpp: thin objects over its C functions, no policy."""
