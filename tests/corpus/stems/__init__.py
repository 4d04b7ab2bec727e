"""One strategy per stem: a module of the stem's name whose `cases` is a strategy of `Case`."""

import importlib
import pkgutil

STEMS = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").cases
    for module in pkgutil.iter_modules(__path__)
}
