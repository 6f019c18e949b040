"""Decoding and prefill on a GPU: fused kernels in recorded graphs, tokens drawn on the device.

``service.engine.graphs`` is the plain path, which ends in ``scaled_dot_product_attention``: it
serves where the fused kernels cannot.
"""
