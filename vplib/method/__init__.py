"""The method, in one evening.

Read stages first (both stages, from a batch to the loss), then masking and losses, lit (the text
side of a locked encoder), speaking (its bridge to a language model), compute (what a training
costs) and jigsaw (how a trained decoder places tokens). Ablations with a loss of their own are
one_stage (both losses at once) and image_model (CoCa's, to start from).
"""
