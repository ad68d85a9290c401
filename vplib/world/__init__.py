"""The embedded world, a procedural corpus whose truth is known: read corpora, then scenes, drawing and captions."""
