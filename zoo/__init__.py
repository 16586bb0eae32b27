"""The model zoo: a file for each network that plugs into a component, nothing to register."""

import importlib
import pkgutil


def import_all() -> None:
    """Imports every zoo entry, so that configs may name its class without the module."""
    for kind in ("autoencoders", "content", "motion"):
        package = importlib.import_module(f"{__name__}.{kind}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
