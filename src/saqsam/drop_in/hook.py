"""Tells ``transformers`` about saqsam's models, at once if it is imported, else as soon as it is.

Importing ``transformers`` takes seconds and ``import saqsam`` must not, so nothing is imported here. The
watch is one entry of ``sys.meta_path`` that recognises one module name and removes itself when it was used.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_REGISTRY = "transformers.quantizers.auto"


def make_known() -> None:
    """Register saqsam's quantizer with ``transformers``, now or when its registry is imported.

    Calling it again changes nothing.
    """
    if _REGISTRY in sys.modules:
        _register(sys.modules[_REGISTRY])
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it lets the others find the registry, and has it told once it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """A loader that registers saqsam after the module has run."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader  # whoever asks later for source or data gets it
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        _register(module)


def _register(registry: ModuleType) -> None:
    # A registry still on its way through an import has not got its functions yet; then it is not known
    # whether saqsam is in it, and the watch was there before.
    if hasattr(registry, "register_quantizer"):
        from saqsam.drop_in.quantizer import register

        register(registry)
