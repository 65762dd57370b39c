"""The HTTP server: the routes of all dialects over one `LLM` (see README.md)."""
