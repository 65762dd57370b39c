"""Other people's dictionaries and signatures, without HTTP: OpenAI's JSON and `llama_cpp.Llama`'s calls."""
