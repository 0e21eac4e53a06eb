#!/usr/bin/env bash
# What is done on a worker; launch/tpu_vm.sh sends it there and calls it. Runs on any Linux:
#
#     LRT_HOME=/tmp/try PYTHON_VERSION=3.11 launch/worker.sh setup
#     LRT_HOME=/tmp/try CONFIG=configs/imagereward.py:tiny WORKDIR=/tmp/try/run launch/worker.sh train
#     LRT_HOME=/tmp/try launch/worker.sh state
#
# Lines that begin with `lrt-` are for the caller: they show that an answer came from the worker.
set -euo pipefail

CODE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${LRT_HOME:=$HOME/lrt}" "${PYTHON_VERSION:=3.11.13}" "${CONFIG:=configs/imagereward.py}"
: "${DATA:=}" "${MODEL:=}" "${WORKDIR:=$LRT_HOME/run}" "${TRAIN_FLAGS:=}" "${SLICES:=1}"
: "${COMPILATION_CACHE:=}"
UV_VERSION=0.13.9
VENV=$LRT_HOME/venv LOG=$LRT_HOME/train.log PID=$LRT_HOME/train.pid EXIT=$LRT_HOME/train.exit
STEP=start

step() { STEP=$1; echo "lrt-step $1"; }

# ---------------------------------------------------------------------------- setup

setup() {
  trap '(($? == 0)) || echo "lrt-failed setup, at: $STEP"' EXIT
  trap 'echo "ended by SIGTERM: it took too long, or the machine goes"; exit 124' TERM
  mkdir -p "$LRT_HOME"
  # How an earlier start failed is no more true of this one; that all is done stays so.
  case $(state) in *running | *"ended 0") ;; *) rm -f "$EXIT" "$PID" ;; esac
  step "Python $PYTHON_VERSION"; make_venv
  step "libraries"; install_libraries
  step "data"; copy_down "$DATA" "$LRT_HOME/data"
  step "model"; copy_down "$MODEL" "$LRT_HOME/model"
  step "import"; "$VENV/bin/python" -c 'import jax, lrt_jax; print("jax", jax.__version__)'
  echo "lrt-ready"
}

# Images of TPU VMs have older Pythons than we need; uv brings the one that is asked for.
make_venv() {
  [[ -x $LRT_HOME/tools/bin/uv ]] ||
    python3 -m pip install --quiet --target "$LRT_HOME/tools" "uv==$UV_VERSION"
  [[ -x $VENV/bin/python ]] || "$LRT_HOME/tools/bin/uv" venv --python "$PYTHON_VERSION" "$VENV"
}

install_libraries() {
  local pip=("$LRT_HOME/tools/bin/uv" pip install --quiet --python "$VENV/bin/python")
  "${pip[@]}" --requirement "$CODE/launch/requirements.txt"
  "${pip[@]}" --no-deps --editable "$CODE"
}

copy_down() { # gs:// folder, local folder
  [[ -n $1 ]] || return 0
  mkdir -p "$2"
  # What is left of another set or model would be taken for part of this one.
  gcloud storage rsync --recursive --delete-unmatched-destination-objects "$1" "$2"
}

# ---------------------------------------------------------------------------- training

# Detached: training goes on when the connection that started it is gone.
train() {
  if [[ $(state) == "lrt-state running" ]]; then
    echo "lrt-running already"
    return
  fi
  [[ -x $VENV/bin/python ]] || { echo "lrt-failed train: no setup on this worker"; return 1; }
  rm -f "$EXIT"
  setsid bash "${BASH_SOURCE[0]}" run </dev/null >>"$LOG" 2>&1 &
  echo $! >"$PID"
  echo "lrt-running started"
}

# The training command, and how it ended. Pods need no flags to find one another.
run() {
  local code=0
  trap : TERM INT # meant for training below, whose exit code must still be written
  main "$VENV/bin/python" || code=$?
  echo "$code" >"$EXIT.new" && mv "$EXIT.new" "$EXIT"
}

# Whether training would take its flags and config on so many chips. Needs no setup: it is called
# before there is a worker.
check() { main "${PYTHON:-$VENV/bin/python}" "--check_devices=$1"; } # chips

# Whether it fits chips, by the compiler of TPUs; 3: that is not there. Likewise before there is a
# worker. Of the flags of training those of its config matter.
plan() { # topology
  local python=${PYTHON:-$VENV/bin/python} flags=() word
  "$python" -c 'import importlib.util as u; exit(3 * (u.find_spec("libtpu") is None))' || return 3
  for word in $TRAIN_FLAGS; do
    [[ $word != --config.* ]] || flags+=("$word")
  done
  ((SLICES == 1)) || flags+=("--config.mesh.data=$SLICES")
  cd "$CODE"
  "$python" -m lrt_jax.plan --config="$CONFIG" --topology="$1" --slices="$SLICES" \
    ${flags[@]+"${flags[@]}"}
}

main() { # Python, further flags
  local python=$1 flags
  shift
  read -d '' -ra flags <<<"$TRAIN_FLAGS" || true # which is the end of the text
  [[ -z $COMPILATION_CACHE ]] ||
    flags=("--compilation_cache=$COMPILATION_CACHE" ${flags[@]+"${flags[@]}"})
  [[ -z $DATA ]] || flags+=("--config.data.path=$LRT_HOME/data")
  [[ -z $MODEL ]] || flags+=("--config.model.path=$LRT_HOME/model")
  ((SLICES == 1)) || flags+=("--config.mesh.data=$SLICES") # the one axis that crosses slices
  cd "$CODE"
  "$python" -m lrt_jax.main --config="$CONFIG" --workdir="$WORKDIR" \
    ${flags[@]+"${flags[@]}"} "$@"
}

# After a restart of the machine another process may have the number.
alive() { [[ -f $PID ]] && grep -qs worker.sh "/proc/$(<"$PID")/cmdline"; }

# One of: absent (no setup), ready (never started), running, ended CODE, lost (without a code).
state() {
  if [[ ! -x $VENV/bin/python ]]; then echo "lrt-state absent"
  elif [[ -f $EXIT ]]; then echo "lrt-state ended $(<"$EXIT")"
  elif alive; then echo "lrt-state running"
  elif [[ -f $PID ]]; then echo "lrt-state lost"
  else echo "lrt-state ready"; fi
}

# What `watch` and `status` ask: the state, and the last that training said.
report() {
  state
  [[ ! -f $LOG ]] || tail -n 1 "$LOG" | drawn | cut -c -200 | sed 's/^/lrt-said /'
}

# SIGTERM has all workers write a checkpoint; who does not end in time is killed.
stop() { # seconds
  local i
  if alive; then
    kill -TERM -- "-$(<"$PID")" 2>/dev/null || true
    for ((i = 0; i < $1; i++)); do alive || break; sleep 1; done
    ! alive || kill -KILL -- "-$(<"$PID")" 2>/dev/null || true
  fi
  echo "lrt-stopped"
}

logs() { # lines, -f
  touch "$LOG"
  if [[ -n ${2:-} ]]; then tail -n "$1" "$2" "$LOG"; else tail -n "$1" "$LOG" | drawn; fi
}

# A progress bar draws one line again and again: the last drawing of it.
drawn() { sed -e 's/[[:space:]]*$//' -e 's/.*\r//'; }

"$@"
