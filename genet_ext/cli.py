"""The shell command ``genet-ext``."""

from __future__ import annotations

import argparse
import glob
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genet_ext._version import __version__

# Only the standard library up here: `genet-ext --help` must not wait for torch.
if TYPE_CHECKING:
    from genet_ext.result import FitResult

ALL_FITTED, SOME_FAILED, USAGE = 0, 1, 2
PLOTTED_FACES = 24
SHOWN_FAILURES = 20

FIT_EPILOG = """\
examples:
  genet-ext fit photo.jpg                           the AUs of every face, on the screen
  genet-ext fit photo.jpg --plot fit.png            and a picture: photograph | rendering | AUs
  genet-ext fit holiday/ 'more/*.png' -o aus.csv    a folder and a pattern, into a table
  genet-ext fit photo.jpg --objective image         search through the rendering, as published (slow)
  genet-ext fit film/ --identity shared --smoothing 0.5 -o aus.csv     one person's frames
  genet-ext fit anna/ ben/ --identity shared --subject folder          photographs of two people

The table has a row per face: image, box, 20 AU intensities in [0, 1] with their standard deviations, head
pose in degrees, the loss, all parameters and 68 landmarks. It is written as the fit goes: what is there when
you interrupt it stays. (With --identity shared, --smoothing or --neutral it is written at the end.)

exit codes: 0 every image was fitted, 1 some were not (they are listed), 2 wrong usage"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        # argparse itself would show the usage of genet-ext, which does not list the command's options.
        options.usage_error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.command is None:
        parser.print_help()
        return USAGE
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        print("genet-ext: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"genet-ext: {error}", file=sys.stderr)
        return USAGE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genet-ext",
        description="Action Unit intensities of the faces in photographs, by fitting a face model.",
        epilog="`genet-ext COMMAND --help` says more; `genet-ext demo` is the quickest way to see it work.",
    )
    parser.add_argument("--version", action="version", version=f"genet-ext {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    fit = commands.add_parser(
        "fit",
        help="fit photographs: a table of AUs, a picture of the fit",
        description="Fit every face in the given photographs.",
        epilog=FIT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="photograph, folder of photographs, or pattern"
    )
    fit.add_argument("-o", "--output", type=Path, metavar="FILE.csv", help="write the full table here")
    fit.add_argument("--plot", type=Path, metavar="FILE.png", help="draw photograph, rendering and AUs here")
    _add_film_options(fit)
    _add_search_options(fit)
    fit.set_defaults(run=_fit)

    demo = commands.add_parser(
        "demo",
        help="fit two photographs that come with scikit-image and matplotlib",
        description="Fit scikit-image's astronaut and matplotlib's Grace Hopper; needs no network.",
    )
    demo.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("genet-demo"),
        metavar="DIR",
        help="folder to write (%(default)s)",
    )
    _add_search_options(demo)
    demo.set_defaults(run=_demo)

    info = commands.add_parser(
        "info", help="versions, build, devices and weights", description="What is installed."
    )
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(run=_info)

    enable = commands.add_parser(
        "enable",
        help='let py-feat scripts that never import genet_ext say au_model="genet"',
        description="Write a one-line .pth file into site-packages: from then on `import feat` also imports "
        "genet_ext. Costs a Python start about 1 ms; `genet-ext disable` undoes it.",
    )
    enable.set_defaults(run=_enable)
    disable = commands.add_parser(
        "disable", help="undo enable", description="Remove the .pth file that `genet-ext enable` wrote."
    )
    disable.set_defaults(run=_disable)
    for each in (parser, *commands.choices.values()):
        each.set_defaults(usage_error=each.error)
    return parser


def _add_film_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several photographs of one person",
        "Without these a face's numbers depend on its photograph alone. What they bring: docs/films.md.",
    )
    group.add_argument(
        "--identity",
        choices=("free", "shared"),
        default="free",
        help="shared: what all photographs of a person share is who it is: the head keeps its shape, "
        "landmarks that leave their usual place are movement, and what reads as an AU on the face at rest is "
        "taken off",
    )
    group.add_argument(
        "--smoothing",
        type=float,
        default=0.0,
        metavar="W",
        help="the photographs are the frames of a film, a folder's in the order of their names (0001, 0002, "
        "...): over how many frames to both sides neighbours count. 0.5 takes jitter away and leaves blinks",
    )
    group.add_argument(
        "--neutral",
        metavar="PICTURE",
        help="the person at rest: movement is what differs from it, in landmarks and AUs; with --subject "
        "folder, the name that such a picture has in every folder",
    )
    group.add_argument(
        "--subject",
        choices=("one", "folder"),
        default="one",
        help="who is who: all photographs are of one person (%(default)s), or those of each folder",
    )


def _add_search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (CUDA where there is any), cpu, cuda, cuda:1, ..."
    )
    parser.add_argument(
        "--objective", choices=("feature", "image"), default="feature", help="where to compare (%(default)s)"
    )
    parser.add_argument("--iterations", type=int, metavar="N", help="search steps at most")
    parser.add_argument(
        "--backend", choices=("native", "reference"), default="native", help=argparse.SUPPRESS
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bar and no table on the screen"
    )


# --- genet-ext fit --------------------------------------------------------------------------------


def _fit(options: argparse.Namespace) -> int:
    photos = _expand(options.photos)
    return _fit_and_report(photos, photos, options, options.output, options.plot, _ties(options, photos))


def _ties(options: argparse.Namespace, photos: Sequence[str]) -> dict[str, Any]:
    """The arguments of `genet_ext.fit` that tie photographs of a person together; empty for none."""
    from genet_ext.sequences import check_smoothing

    check_smoothing(options.smoothing)
    if options.identity == "free" and not options.smoothing and options.neutral is None:
        if options.subject != "one":
            raise ValueError("--subject: expected together with --identity shared, --smoothing or --neutral")
        return {}
    folders = [str(Path(photo).parent) for photo in photos]
    ties: dict[str, Any] = {"identity": options.identity, "smoothing": options.smoothing}
    if options.subject == "folder":
        ties["subject"] = folders
    if options.neutral is not None:
        here = dict.fromkeys(folders) if options.subject == "folder" else ["."]
        resting = {folder: str(Path(folder, options.neutral)) for folder in here}
        for path in resting.values():
            if not Path(path).is_file():
                raise FileNotFoundError(f"--neutral: no such file: {path}")
        ties["neutral"] = resting if options.subject == "folder" else resting["."]
    return ties


def _expand(arguments: Sequence[str]) -> list[str]:
    """Folders and patterns -> their photographs; a name that is neither stays, and fails by itself."""
    from genet_ext.images import list_photos

    photos: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = [str(photo) for photo in list_photos(path)]
            if not found:
                raise ValueError(f"no photographs in the folder {argument!r}")
        elif not path.exists() and glob.has_magic(argument):
            found = sorted(glob.glob(argument))
            if not found:
                raise ValueError(f"no file matches {argument!r}")
        else:
            found = [argument]
        photos += found
    return photos


def _fit_and_report(
    images: Sequence[Any],
    names: Sequence[str],
    options: argparse.Namespace,
    table: Path | None,
    picture: Path | None,
    ties: dict[str, Any] | None = None,
) -> int:
    """Fit, write the table as it grows, draw the picture, and list what failed."""
    from dataclasses import replace

    from genet_ext.fitting import fit, fit_stream
    from genet_ext.result import concatenate

    for path in (table, picture):
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"no such folder: {path.parent}")
    search: dict[str, Any] = {"objective": options.objective, "backend": options.backend}
    if options.iterations is not None:
        search["iterations"] = options.iterations
    search |= {"device": options.device, "progress": not options.quiet}
    stream: Iterable[FitResult]
    if ties:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the failures that are listed below
            stream = [fit(list(images), **search, **ties)]
    else:
        stream = fit_stream(list(images), **search)
    failures: list[str] = []
    leading: list[FitResult] = []
    fitted = written = doubtful = 0
    for part in stream:
        part = replace(part, source=[names[i] for i in part.image])
        if table is not None:
            part.to_frame().to_csv(table, mode="a" if written else "w", header=not written, index=False)
        written += len(part)
        fitted += int(part.fitted.sum())
        doubtful += part.quality.count("doubtful")
        failures += [
            f"{s}: {m}" for s, m, ok in zip(part.source, part.message, part.fitted, strict=True) if not ok
        ]
        if sum(map(len, leading)) < PLOTTED_FACES:
            leading.append(part[:PLOTTED_FACES])
    shown = concatenate(leading)[:PLOTTED_FACES]
    if not options.quiet:
        _print_table(shown, written)
    if picture is not None:
        shown.plot(picture)
    _print_summary(fitted, doubtful, failures, table, picture)
    return SOME_FAILED if failures else ALL_FITTED


def _print_table(result: FitResult, total: int) -> None:
    from genet_ext.action_units import load_action_units

    kept = result[result.fitted]
    if not len(kept):
        return
    labels = [f"{Path(s).name} #{n}" for s, n in zip(kept.source, kept.face, strict=True)]
    width = max(map(len, labels))
    print(
        f"{'AU':<{width}}  " + " ".join(f"{name.removeprefix('AU'):>4}" for name in load_action_units().names)
    )
    for label, row in zip(labels, kept.aus.to_numpy(), strict=True):
        print(f"{label:<{width}}  " + " ".join(f"{v:4.2f}" if v == v else "   -" for v in row))
    if total > len(result):
        print(f"... {total - len(result)} more rows")


def _print_summary(
    fitted: int, doubtful: int, failures: list[str], table: Path | None, picture: Path | None
) -> None:
    written = [str(path) for path in (table, picture) if path is not None]
    said = f" ({doubtful} doubtful)" if doubtful else ""
    print(
        f"{fitted} face{'s' * (fitted != 1)} fitted{said}"
        + (f"; wrote {', '.join(written)}" if written else "")
    )
    if failures:
        print(f"{len(failures)} not fitted:", file=sys.stderr)
        for line in failures[:SHOWN_FAILURES]:
            print(f"  {line}", file=sys.stderr)
        if len(failures) > SHOWN_FAILURES:
            print(f"  ... {len(failures) - SHOWN_FAILURES} more", file=sys.stderr)


# --- genet-ext demo -------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from matplotlib.cbook import get_sample_data

    try:
        from skimage.data import astronaut
    except ModuleNotFoundError as error:
        raise ImportError(
            "demo: expected scikit-image for its photograph; pip install scikit-image"
        ) from error

    options.output.mkdir(parents=True, exist_ok=True)
    hopper = Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    photo = astronaut()  # type: ignore[no-untyped-call]
    names = ["astronaut (scikit-image)", "grace_hopper (matplotlib)"]
    return _fit_and_report(
        [photo, hopper], names, options, options.output / "aus.csv", options.output / "fit.png"
    )


# --- genet-ext info -------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    from genet_ext import build_info
    from genet_ext.pyfeat import autoload

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about drivers that the report itself shows
        facts = build_info()
    facts["enabled for py-feat"] = str(autoload.pth_path()) if autoload.is_enabled() else "no"
    if options.json:
        print(json.dumps(facts, indent=2, default=str))
        return ALL_FITTED
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = _describe(value)
        print(f"{name:<{width}}  {lines[0]}")
        for line in lines[1:]:
            print(f"{'':<{width}}  {line}")
    return ALL_FITTED


def _describe(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {inner}" for key, inner in value.items()] or ["-"]
    if isinstance(value, (list, tuple)):
        return [str(inner) for inner in value] or ["-"]
    return ["-" if value is None else str(value)]


# --- genet-ext enable, disable --------------------------------------------------------------------


def _enable(_: argparse.Namespace) -> int:
    from genet_ext.pyfeat import autoload

    print(f'au_model="genet" is enabled for every py-feat script of this Python: {autoload.enable()}')
    return ALL_FITTED


def _disable(_: argparse.Namespace) -> int:
    from genet_ext.pyfeat import autoload

    found = autoload.disable()
    print(f"{'removed' if found else 'there was no'} {autoload.pth_path()}")
    return ALL_FITTED


if __name__ == "__main__":
    sys.exit(main())
