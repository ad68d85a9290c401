"""What a frozen model knows.

Read features, heads and metrics, then tasks, which joins them, then classify and ceilings, and
tokens (of a locked encoder, which training reads).
"""
