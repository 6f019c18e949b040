"""The protocol of text-generation-inference."""
