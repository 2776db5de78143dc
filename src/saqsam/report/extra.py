"""The optional packages behind the page."""

from __future__ import annotations

from importlib import import_module

from saqsam.errors import UsageError


def require_report() -> None:
    """See that ``jinja2`` and ``matplotlib`` can be imported.

    Raises:
        UsageError: one of them is not installed; the message names the extra that brings both.
    """
    for name in ("jinja2", "matplotlib"):
        try:
            import_module(name)
        except ImportError as error:
            raise UsageError(
                f"--html needs the package {name}, which cannot be imported ({error}); "
                "install it with: pip install 'saqsam[report]'"
            ) from error
