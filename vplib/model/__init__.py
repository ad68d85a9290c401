"""The network and its weights as files.

Read attention, layers and encoders, then sizes, frozen and checkpoints, with exported for folders
of transformers. Pure JAX but for these two; knows no loss, no data and no configuration.
"""
