r"""The README's picture: what genet_ext.fit finds in pictures of the second face model, and what was in them.

Nobody is in these pictures: they are MakeHuman heads (CC0) that no training render resembles. They are the
first people of the set whose face is turned by less than 15 degrees, one picture per expression, whatever the
fits look like.

    python -m python.evaluate.show_fits --data data/second_model --out docs/fits.png
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from genet_ext.fitting import fit
from genet_ext.models import load_models
from python.evaluate.pictures import TestSet, load_test_set, over_grey

EXPRESSIONS = ("AU12", "AU04", "AU26", "AU43")  # the strongest AU of each picture
STRONG, ABSENT = 0.7, 0.25
MOST_TURN = np.radians(15)


def choose(test: TestSet) -> list[int]:
    """One frontal picture per expression, of another person each, with the box of the full size."""
    chosen: list[int] = []
    frontal = (np.abs(test.pose[:, :2]) < MOST_TURN).all(1) & (test.scale == 1)
    for au in EXPRESSIONS:
        strong = np.nan_to_num(test.aus[:, test.names.index(au)]) > STRONG
        used = np.isin(test.person, test.person[chosen])
        found = np.flatnonzero(strong & frontal & ~used)
        if len(found):
            chosen.append(int(found[0]))
    return chosen


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder made by python.evaluate.second_model"
    )
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the shipped ones)")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()
    test = load_test_set(arguments.data)
    rows = choose(test)
    pictures = [over_grey(picture) for picture in test.renders.images(test.rows[rows])]
    models = load_models(folder=arguments.weights)
    result = fit(pictures, [test.box[row][None] for row in rows], models=models)
    names = [_said(test, row) for row in rows]
    replace(result, source=names).plot(arguments.out)
    for name, (_, aus) in zip(names, result.aus.iterrows(), strict=True):
        print(name, "->", ", ".join(f"{au} {value:.2f}" for au, value in aus.nlargest(4).items()))


def _said(test: TestSet, row: int) -> str:
    values = dict(zip(test.names, np.nan_to_num(test.aus[row]), strict=True))
    return ", ".join(f"{au} {value:.1f}" for au, value in values.items() if value >= ABSENT)


if __name__ == "__main__":
    main()
