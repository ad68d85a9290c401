"""The network and its weights as files.

Read attention, layers and encoders (with adapters, where an encoder has some), then sizes, cost,
frozen and checkpoints, and exported, the layout of transformers. For text: resampler, which turns a
video's tokens into words for decoders, the language models, and public_lm, which reads public ones.
Pure JAX but for checkpoints, exported and public_lm; knows no loss, no data and no configuration.
"""
