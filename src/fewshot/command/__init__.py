"""What commands share. Only here, in ``run.py`` and in ``hydra_plugins`` is Hydra seen."""
