"""What the benchmarks share: a client that records when things arrive, cases, servers, tables."""
