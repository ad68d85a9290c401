"""What a frozen model knows.

Read features, heads and metrics, then tasks, which joins them, then classify and ceilings.
Tokens are those of a locked encoder, for training on.
"""
