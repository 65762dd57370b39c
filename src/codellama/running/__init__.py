"""What stands between an `LLM` and its engine: requests in, answers and vectors out, adapters, KV files."""
