"""The network and its weights as files.

Read attention, layers and encoders (with adapters, where an encoder has some), then sizes, cost,
frozen and checkpoints, and exported, the layout of transformers. Pure JAX but for checkpoints and
exported; knows no loss, no data and no configuration.
"""
