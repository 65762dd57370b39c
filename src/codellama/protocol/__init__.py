"""Wire formats: pydantic models of requests and pure functions for answers; no HTTP, no engine."""
