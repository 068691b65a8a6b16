"""What commands share. Only here and in ``run.py`` is Hydra seen."""
