"""Decoding steps as graphs that are recorded once and replayed: what a GPU needs to be kept busy.

A step of one token a stream is hundreds of small kernels; launching them from Python takes longer
than running them. Recorded shapes are few (``buckets``), memory addresses fixed (``decode``).
"""
