"""The network: attention, layers, encoders, and its weights as files.

Read attention, layers, encoders, then checkpoints. Pure JAX but for checkpoints; knows no loss, no
data and no configuration.
"""
