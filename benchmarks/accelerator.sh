#!/usr/bin/env bash
# Attention kernels and a training step of 3B's shapes on this machine's accelerator: figures as one
# JSON, in at most 8 minutes. Installs nothing. `--small` is a trial that any CPU does in a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
exec timeout --verbose 480 python -m benchmarks.accelerator "$@"
