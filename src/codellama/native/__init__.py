"""llama.cpp through `llama_cpp`: thin objects over its C functions, no policy."""
