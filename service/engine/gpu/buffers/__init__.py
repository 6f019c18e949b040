"""Tensors of fixed addresses and the steps that are recorded over them."""
