"""What `llama_server_suite.py` needs: stand-in models, changes of the tests, and options translated."""
