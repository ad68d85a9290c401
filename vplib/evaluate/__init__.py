"""What a frozen model knows: read features, heads and metrics, then tasks, which joins them, then
classify.
"""
