"""The pages, a module for each: every module here gives a ``PAGE`` (``console/page.py``)."""

import importlib
import pkgutil

from microvmd.console.page import Page


def all_pages() -> list[Page]:
    """Of all modules of this package; a new page needs no list to be named in."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    pages = [importlib.import_module(f"{__name__}.{name}").PAGE for name in names]
    assert all(isinstance(page, Page) for page in pages), "a module of pages/ has no PAGE"
    return pages
