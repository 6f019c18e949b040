"""The one command, ``nestling train | serve | run | play | …``: it starts programs by name."""
