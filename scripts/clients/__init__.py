"""What `try_clients.py` needs: the clients, their environments, a server, and a proxy that records."""
