"""How tests compile: what they compile runs for a moment only."""

FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

# Processes that run the same job one after another find its small programs compiled too; JAX keeps
# only those that take a second.
KEEP_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
