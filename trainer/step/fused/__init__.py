"""What makes a training step faster or smaller and decides nothing that is computed.

Each module is tested to equal the plain form, and a reader may skip all of them.
"""
