"""vplib: VideoPrism's encoder, losses and input pipelines, small enough to read in two evenings.

Reading order: method (the two stages), model (the network), data (videos to batches), world (the
embedded corpus), train (the loop), evaluate (what was learned). At the top what one types: run
(with config and rules), export, predict, reproduce; and what the rest rests on: results, figures,
published, code, files, environment, progress, paths.

Axes, everywhere: B clips, T frames, H W C pixels, N tokens a frame, S = T*N, V visible tokens,
D width, K heads, L caption tokens, E joint embedding. Masks are True where something is kept.
"""
