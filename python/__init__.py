"""Offline tools: rendering, training, evaluation and benchmarks. Never imported by genet_ext."""
