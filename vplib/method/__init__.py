"""The method, in one evening.

Read stages first (both stages, from a batch to the loss), then masking and losses, and lit
(the text side of a locked encoder).
"""
