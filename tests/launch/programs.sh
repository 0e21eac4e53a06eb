#!/usr/bin/env bash
# Stands for the programs of a worker that would need the network or a TPU. It is called by their
# names: python3 (which brings uv), uv, and the python that uv brings; and for the Python of the
# launcher's own machine, which checks the config (python-here).
set -euo pipefail

case ${0##*/} in
  python3) # -m pip install --quiet --target FOLDER uv==...
    mkdir -p "$6/bin"
    cp "$0" "$6/bin/uv" ;;
  python-here) # -c CODE, -m lrt_jax.plan --config=... or -m lrt_jax.main ... --check_devices=N
    if [[ $1 == -c ]]; then # whether libtpu is there
      [[ -f $STAND_IN/plan ]] || exit 3
      exit 0
    elif [[ $2 == lrt_jax.plan ]]; then
      echo "$*" >"$STAND_IN/plan-flags"
      cat "$STAND_IN/plan"
      [[ ! -f $STAND_IN/plan-hangs ]] || exec sleep 60
      if grep -q -e "does not fit" -e "^error" "$STAND_IN/plan"; then exit 1; else exit 0; fi
    fi
    if [[ -f $STAND_IN/config-is-wrong ]]; then
      cat "$STAND_IN/config-is-wrong" >&2
      exit 1
    fi
    echo "preset 7b fits the chips (${*: -1})" ;;
  uv)
    if [[ $1 == venv ]]; then # --python VERSION FOLDER
      mkdir -p "$4/bin"
      cp "$0" "$4/bin/python"
    elif [[ -f $STAND_IN/setup-fails-$WHO ]]; then
      echo "no such wheel" >&2
      exit 1
    elif [[ -f $STAND_IN/setup-hangs-$WHO ]]; then
      sleep 60
    fi ;;
  python)
    if [[ $1 == -c ]]; then echo "jax 0"; else exec "$REAL_PYTHON" "$STAND_IN/training.py" "$@"; fi ;;
esac
