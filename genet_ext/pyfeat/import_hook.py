"""Calls a function right after a module has been imported.

Python's start-up runs this file on its own where `genet-ext enable` is on (see `autoload.py`), so it imports
nothing but `sys` and must stay quick. `registration.py` uses the same class.
"""

from __future__ import annotations

import sys

MYPY = False  # true only to mypy: typing alone would double what this file costs at start-up
if MYPY:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class AfterImport:
    """A finder for `sys.meta_path` that passes `awaited_module` to `callback` once it is loaded.

    Other finders find the module, and it keeps its own loader: `inspect.getsource`, reloading and pickling
    see nothing unusual.
    """

    def __init__(self, awaited_module: str, callback: Callable[[ModuleType], None]) -> None:
        self.awaited_module = awaited_module
        self.callback = callback

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The awaited module's spec from the first other finder that knows it; None for every other name."""
        if name != self.awaited_module:
            return None
        for finder in sys.meta_path:
            # Not only `finder is self`: two hooks that await one module would ask each other for ever.
            if getattr(finder, "awaited_module", None) == name:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self._call_back_after(spec.loader)
                return spec
        return None

    def _call_back_after(self, loader: Loader) -> None:
        exec_module = loader.exec_module

        def exec_module_and_call_back(module: ModuleType) -> None:
            exec_module(module)
            self.callback(module)

        loader.exec_module = exec_module_and_call_back  # type: ignore[method-assign]


def _import_genet_ext(_: ModuleType) -> None:
    """Import genet_ext, which registers itself with py-feat."""
    try:
        import genet_ext  # noqa: F401
    except Exception as error:  # py-feat must stay usable where genet-ext is broken
        import warnings

        warnings.warn(f'au_model="genet" is not available: import genet_ext failed: {error}', stacklevel=2)


if __name__ == "genet_ext_autoload":  # the name under which the .pth line runs this file
    sys.meta_path.insert(0, AfterImport("feat.detector", _import_genet_ext))
