"""Reads models that Amazon SageMaker's Object2Vec trained, without MXNet and without torch.

    model.tar.gz ── archive ──┬── params file ── params ─── stored arrays ──┐
                              ├── symbol JSON ── symbol ─── graph           ├── weights
                              │                    └── network ── layers ───┘
                              └── other JSON ─── hyperparameters

`archive` opens the artefact and trusts none of it; `params` reads MXNet's list of arrays;
`symbol` reads the graph, and `network` what the graph computes; `weights` puts the arrays
into our names and order. The graph is the truth: hyperparameters only say how long
sequences may be. Whatever cannot be read or run is a ModelError that names the member.
"""
