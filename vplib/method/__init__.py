"""The method, in one evening.

Read stages first (both stages, from a batch to the loss), then masking and losses, lit (the text
side of a locked encoder), speaking (its bridge to a language model), compute (what a training
costs) and jigsaw (how a trained decoder places tokens). An ablation with a
loss of its own is one_stage (both losses at once).
"""
