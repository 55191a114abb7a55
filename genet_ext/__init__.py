"""AU intensities from photographs by analysis through synthesis (GE-Net), at home in py-feat.

>>> import genet_ext
>>> result = genet_ext.fit("photo.jpg")     # doctest: +SKIP
>>> result.aus                              # doctest: +SKIP

Importing the package costs next to nothing: torch and the rest are imported with the first name that is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from genet_ext._version import __version__
from genet_ext.pyfeat.registration import install, register, unregister

if TYPE_CHECKING:
    from genet_ext._build import build_info
    from genet_ext.fitting import fit, fit_stream
    from genet_ext.models import Models, load_models
    from genet_ext.parameters import ParameterSpace, load_parameter_space
    from genet_ext.pyfeat import Detector
    from genet_ext.result import FitResult
    from genet_ext.solver import SearchSettings
    from genet_ext.status import Status

__all__ = [
    "Detector",
    "FitResult",
    "Models",
    "ParameterSpace",
    "SearchSettings",
    "Status",
    "__version__",
    "build_info",
    "fit",
    "fit_stream",
    "load_models",
    "load_parameter_space",
    "register",
    "unregister",
]

_HOMES = {
    "Detector": "pyfeat",
    "FitResult": "result",
    "Models": "models",
    "ParameterSpace": "parameters",
    "SearchSettings": "solver",
    "Status": "status",
    "build_info": "_build",
    "fit": "fitting",
    "fit_stream": "fitting",
    "load_models": "models",
    "load_parameter_space": "parameters",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


install()  # au_model="genet" in py-feat, now or when it is imported
