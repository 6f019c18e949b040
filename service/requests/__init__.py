"""What a request is below HTTP: its spec, its limits, its replies."""
