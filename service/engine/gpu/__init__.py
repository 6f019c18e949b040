"""Decoding and prefill on a GPU: fused kernels in recorded graphs, tokens drawn on the device.

``service.engine.graphs`` is the plain path through ``scaled_dot_product_attention``: the definition,
and what serves where the fused kernels cannot.
"""
