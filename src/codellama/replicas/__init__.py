"""The server over several copies of a model, each in a process of its own, on one machine or on many.

One front has the port, the keys and the limits, and forwards what it lets in; a replica is the whole app over
one model. Ray Serve starts the replicas, replaces them and carries what travels. Only `ray_cluster` and
`router` import it.
"""
