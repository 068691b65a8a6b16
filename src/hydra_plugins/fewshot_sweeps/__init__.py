"""Hydra takes launchers and sweepers from packages in ``hydra_plugins`` only, which it imports with every command."""
