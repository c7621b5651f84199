"""From a Korean ICU registry to a synthetic one that can be released: models, proof and paper."""
__version__ = "0.1.0"

import importlib

_PUBLIC = dict(Cohort='cohort', Synthesizer='synthesizer', evaluate='evaluation', load_cohort='sources.load',
               simulate_registry='simulate', toy_cohort='toy')
__all__ = list(_PUBLIC)

def __getattr__(name:str):
    "The public names, imported when first asked for: `import synkmimic` alone loads nothing heavy."
    if name not in _PUBLIC: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)

def __dir__(): return sorted([*globals(), *_PUBLIC])
