"""Give Hydra launchers and sweepers, which it takes from ``hydra_plugins`` only.

Hydra imports every module here with every command: slow imports belong into functions.
"""
