"""Turns requests into tokens: continuous batching over contiguous cache slots.

``worker`` owns the thread and the clock; ``engine`` is one model's step loop; ``scheduler`` says
what the next step computes; ``batch`` lays it out as tensors; ``runner`` runs the decoder;
``sampling`` chooses tokens; ``text`` makes them words. Knows no FastAPI, no Prometheus, no disk.
"""
