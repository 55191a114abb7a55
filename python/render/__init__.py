"""Training renders: ICT-FaceKit geometry, FRLL skin, random light; deterministic by seed, sharded, resumable.

``python -m python.render --assets DIR --out DIR --count N --seed S --workers W`` from the repository root.
The offline tools are never imported by ``genet_ext`` and are not part of its wheel.
"""
