"""Trains a small language model and publishes its checkpoints to a volume.

One module per station: config → corpus → tokens → batches → loss, optimizer, schedule → loop →
report. Imports ``lm`` and never ``service``.
"""
