"""The network and its weights as files.

Read attention, layers and encoders, then sizes and checkpoints. Pure JAX but for checkpoints; knows
no loss, no data and no configuration.
"""
