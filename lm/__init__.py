"""What the trainer and the service must agree on: the decoder, the tokenizer, the volume.

Imports nothing of ours, no FastAPI, no Prometheus: ``trainer → lm ← service``.
"""
