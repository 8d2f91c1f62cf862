"""Headless core of napari-lsfm: pack cleared-brain light-sheet stacks into one file, and take any piece of it out again."""

import lazy_loader

# What is public stands in the stub file, once. A room is entered only when something of it is asked for, so that importing the
# package takes no time.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def load_ipython_extension(shell: object) -> None:
    """Give IPython the line magic ``%lsfm``: what ``%load_ext lsfm_core`` calls."""
    import importlib

    importlib.import_module(f"{__name__}.cli.interactive").add_magic(shell)
