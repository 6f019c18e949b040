"""Draws tokens on a GPU inside a recorded graph, exactly as ``lm.sampling`` defines a draw.

``sampler.DeviceSampler`` launches two kernels a step. The first reads the logits with many programs
a row and leaves the largest logit and the sum of the weights of each group of tokens. The second
has one program a row and reads little but the groups. ``sampler`` and ``kernels`` need Triton.
"""
