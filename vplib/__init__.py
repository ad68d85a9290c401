"""vplib: VideoPrism's encoder, losses and input pipelines, small enough to read in two evenings.

Reading order: method (the two stages), model (the network), data (videos to batches), world (the
embedded corpus), train (the loop), evaluate (what was learned). At the top what one types: run
(with config and rules), export, predict, reproduce; and what the rest rests on: results, figures,
published, code, files, environment, progress, paths; lessons draws what the lessons show.

Axes, everywhere: B clips, T frames (moments), H W C pixels, N tokens a frame (places), P numbers
of a patch, S = T*N, V visible tokens (of a frame or of a clip, as the annotation says), D width,
M an MLP's width, K heads, L caption tokens, E joint embedding. Where a token came from is its place,
where it stands in a decoder's sequence its slot. Masks are True where something is kept.
"""
