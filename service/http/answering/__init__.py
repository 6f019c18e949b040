"""From a request's body to its answer, whatever the protocol."""
