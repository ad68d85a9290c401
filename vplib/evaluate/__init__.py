"""What a frozen model knows: read features, heads and metrics, then classify."""
