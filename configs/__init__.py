"""Configs that ship with the package, as `lrt_jax.configs`: `--config=imagereward:tiny`."""
