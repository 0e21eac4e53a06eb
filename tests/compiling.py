"""How tests compile: what they compile runs for a moment only."""

FAST = (
    "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"  # whose code takes more than twice as long to compile
)
