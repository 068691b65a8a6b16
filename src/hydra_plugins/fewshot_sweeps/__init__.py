"""Give Hydra launchers and sweepers.

Hydra finds plugins in ``hydra_plugins`` only. Hydra imports every module here with every command: slow imports belong
into functions.
"""
