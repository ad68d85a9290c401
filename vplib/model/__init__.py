"""The network and its weights as files.

Read attention, layers and encoders, then sizes, frozen and checkpoints. Pure JAX but for
checkpoints; knows no loss, no data and no configuration.
"""
