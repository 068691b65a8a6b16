"""Hold the parts that commands share.

Only this package, ``run.py`` and ``hydra_plugins`` import Hydra.
"""
