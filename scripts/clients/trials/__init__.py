"""What each client is asked to do; run by its environment's interpreter, which knows nothing else of us."""
