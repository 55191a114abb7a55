"""`genet_ext.Detector`: py-feat's detector with this package's AUs by default."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from genet_ext.pyfeat.model import NAME
from genet_ext.pyfeat.registration import SUPPORTED, raise_if_refused


@functools.cache
def detector_class() -> type[Any]:
    """The class, made once.

    Raises:
        ImportError: py-feat is not installed.
        RuntimeError: the installed py-feat is not supported.
    """
    try:
        from feat.detector import Detectorv1
    except ImportError as error:
        message = f"genet_ext.Detector needs {SUPPORTED} (pip install 'genet-ext[feat]'): {error}"
        raise ImportError(message) from error
    raise_if_refused()
    signature = inspect.signature(Detectorv1.__init__)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.arguments.setdefault("au_model", NAME)
        Detectorv1.__init__(*bound.args, **bound.kwargs)

    def __repr__(self: Any) -> str:
        return str(Detectorv1.__repr__(self)).replace("Detectorv1(", "Detector(", 1)

    parameters = dict(signature.parameters)
    parameters["au_model"] = parameters["au_model"].replace(default=NAME)
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(parameters.values())
    )
    body = {
        "__doc__": 'py-feat\'s `Detectorv1` with `au_model="genet"` for a default, and nothing else.',
        "__module__": "genet_ext.pyfeat",
        "__qualname__": "Detector",
        "__init__": __init__,
        "__repr__": __repr__,
    }
    return type("Detector", (Detectorv1,), body)
