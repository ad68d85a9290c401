"""What a frozen model knows.

Read features, heads and metrics, then tasks, which joins them, then classify and ceilings.
Localisation: proposals and gtad in time, boxes in space.
"""
