"""Putting the wrappers into py-feat, and taking them out again.

`import genet_ext` runs this file: what is slow to import (torch, through `model.py` and `wrappers.py`) waits
for the functions that run once py-feat is there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from genet_ext.pyfeat.import_hook import AfterImport

SUPPORTED = "py-feat 2.0.0 to 2.1.5"

# SHA-256 of the source of every function that is wrapped or relied on; the same in all ten 2.x releases.
EXPECTED_SOURCES = {
    "feat.detector:Detectorv1.__init__": "2c762d86167019546262a77b6cd8d22fb7d1b0aeb500ada1e1e7d13b4e071713",
    "feat.detector:Detectorv1.forward": "75bbb18b0fc9921ce039c30a45e5f58b776497886d56d879bfdd14ab5111bfb5",
    "feat.detector:Detectorv1.detect": "ffc512fa94a37d216f3cccc3fbaf200521007ef60e9e522a263aeb76d16f7a4d",
    "feat.detector:Detectorv1.detect_faces": (
        "d9a05a69231196a59570fef679c363d3cd35bdcf02b64294c2b0e882242abe77"
    ),
    "feat.data:Fex._prepare_plot_aus": "f99f8716ad75f87d9b289cb07dd20af81b0c5d62eefe589c03bcb0cb7b1eaef7",
    "feat.data:draw_plotly_au": "9dac26403a9efa23b4d3aada72b56da9a5ea9cfafcbdd6abe89bdaa649a87635",
}

_MISSING = object()


class _Patches:
    """Attributes replaced in py-feat, and what was there before."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Set `owner.name` to `make(what it was)`, once (feat.detector may be reloaded)."""
        if any(owner is known and name == attribute for known, attribute, _ in self._originals):
            return
        original = vars(owner).get(name, _MISSING)
        self._originals.append((owner, name, original))
        setattr(owner, name, make(original))

    def undo(self) -> None:
        """Put the very same objects back, last one first."""
        while self._originals:
            owner, name, original = self._originals.pop()
            if original is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


_patches = _Patches()
_hook: AfterImport | None = None
_refusal: str | None = None  # why the py-feat that is loaded was not extended


def register(alias: bool = False, check: bool = True) -> None:
    """Make `au_model="genet"` known to py-feat, now or as soon as it is imported; `import genet_ext` does.

    Args:
        alias: also add `feat.Detector` and `feat.detector.Detector`, the name that py-feat 2.0 dropped, for
            code written for py-feat 0.x: py-feat's own `Detectorv1` with py-feat's own defaults.
        check: refuse a py-feat whose code is not the one this version was written against. With False it is
            wrapped all the same: compare the results with care.

    Raises:
        RuntimeError: py-feat is imported already and is refused; names the supported versions.
    """
    install(alias=alias, check=check)
    raise_if_refused()


def install(alias: bool = False, check: bool = True) -> None:
    """`register` without its error, because `import genet_ext` must work beside any py-feat.

    Where py-feat is refused, the error comes when somebody asks for `au_model="genet"`.
    """
    global _hook
    unregister()
    _hook = AfterImport("feat.detector", functools.partial(_extend, alias=alias, check=check))
    sys.meta_path.insert(0, _hook)
    loaded = sys.modules.get("feat.detector")
    if loaded is not None:
        _extend(loaded, alias=alias, check=check)


def unregister() -> None:
    """Put every attribute of py-feat back and stop waiting for its import.

    A detector already made with `au_model="genet"` fails at its next `detect` until `register()` is called.
    """
    global _hook, _refusal
    if _hook is not None and _hook in sys.meta_path:
        sys.meta_path.remove(_hook)
    _hook, _refusal = None, None
    _patches.undo()


def raise_if_refused() -> None:
    """RuntimeError if the py-feat that is loaded is not supported."""
    if _refusal is not None:
        raise RuntimeError(_refusal)


def _extend(detector: ModuleType, alias: bool, check: bool) -> None:
    """Wrap the functions of the py-feat whose module `feat.detector` has just been loaded."""
    global _refusal
    if _knows_genet(detector):
        return
    from genet_ext.pyfeat import wrappers

    _refusal = _why_refused() if check else None
    if _refusal is not None:
        for name in ("Detectorv1", "Detector"):  # the second is py-feat 0.x's
            if hasattr(detector, name):
                refuse = functools.partial(wrappers.refuse, reason=_refusal)
                _patches.replace(getattr(detector, name), "__init__", refuse)
        return
    feat, data, pretrained = (sys.modules[name] for name in ("feat", "feat.data", "feat.pretrained"))
    _patches.replace(detector.Detectorv1, "__init__", wrappers.wrap_init)
    _patches.replace(detector.Detectorv1, "forward", wrappers.wrap_forward)
    _patches.replace(detector.Detectorv1, "detect", wrappers.wrap_detect)
    _patches.replace(detector.Detectorv1, "SUPPORTED_MODELS", _with_genet_option)
    _patches.replace(data.Fex, "_prepare_plot_aus", wrappers.wrap_prepare_plot_aus)
    _patches.replace(data, "draw_plotly_au", wrappers.wrap_draw_plotly_au)
    _patches.replace(pretrained, "PRETRAINED_MODELS", _with_genet_model)
    if alias:
        for module in (feat, detector):
            _patches.replace(module, "Detector", lambda _: detector.Detectorv1)


def _knows_genet(detector: ModuleType) -> bool:
    """Whether this py-feat finds AU models by entry point, as docs/upstream-proposal.md proposes."""
    cls = getattr(detector, "Detectorv1", None)
    return "genet" in getattr(cls, "SUPPORTED_MODELS", {}).get("au_model", {}).get("options", ())


def _with_genet_option(supported: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`Detectorv1.SUPPORTED_MODELS` with one more AU model, before the None at the end."""
    from genet_ext.pyfeat.model import NAME

    options = list(supported["au_model"]["options"])
    options.insert(options.index(None) if None in options else len(options), NAME)
    return {**supported, "au_model": {**supported["au_model"], "options": options}}


def _with_genet_model(models: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """`feat.pretrained.PRETRAINED_MODELS` with one more AU model."""
    from genet_ext.pyfeat.model import NAME, GenetAUModel

    return {**models, "au_model": [*models["au_model"], {NAME: GenetAUModel}]}


def _why_refused() -> str | None:
    """None for a py-feat whose functions have the expected source; else an error message for the user."""
    differences = []
    for name, expected in EXPECTED_SOURCES.items():
        found = source_hash(name)
        if found != expected:
            differences.append(f"{name} ({found[:12]}, expected {expected[:12]})")
    if not differences:
        return None
    from feat.version import __version__ as version

    return (
        f'au_model="genet" is not available with py-feat {version}: this genet-ext supports {SUPPORTED}, and '
        f"the source of these functions differs: {'; '.join(differences)}. Install a supported py-feat or a "
        "newer genet-ext, or call genet_ext.register(check=False) to try all the same."
    )


def source_hash(name: str) -> str:
    """SHA-256 of the source of "module:function" as py-feat ships it, or "missing"."""
    import hashlib
    import inspect

    module, _, path = name.partition(":")
    try:
        function: Any = functools.reduce(getattr, path.split("."), sys.modules[module])
        return hashlib.sha256(inspect.getsource(inspect.unwrap(function)).encode()).hexdigest()
    except (KeyError, AttributeError, OSError, TypeError):
        return "missing"
