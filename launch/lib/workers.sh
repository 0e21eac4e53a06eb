# shellcheck shell=bash
# What is done on the workers, over ssh, on all at once; and what they answer.

# Runs a command on one worker. Its output is the worker's; without its answer, 255, 124 or 1.
on_worker() { # worker, counted over all slices; seconds, 0 for no limit; command
  local LIMIT=$(($2 ? $2 + CALL_SECONDS : 0)) # what is limited there, too, may take its time to say so
  # Without a sign of life for 90 s the connection is lost; ssh itself would wait forever.
  tpus tpu-vm ssh "$(node_of "$1")" --worker="$(($1 % HOSTS))" --ssh-flag=-oConnectTimeout=60 \
    --ssh-flag=-oServerAliveInterval=30 --command="$3"
  run "${GCLOUD[@]}"
}

# Runs a command on all workers, PARALLEL at a time. Output and exit code are left in
# $SCRATCH/WORKER.out and $SCRATCH/WORKER.code.
on_all() { # seconds, command
  local worker
  rm -f "$SCRATCH"/*.out "$SCRATCH"/*.code
  if ((DRY_RUN)); then
    on_worker 0 "$1" "$2"
    ((WORKERS == 1)) || say "the same on the other $((WORKERS - 1)) workers"
    return
  fi
  for ((worker = 0; worker < WORKERS; worker++)); do
    answer_of "$worker" "$1" "$2" &
    if (((worker + 1) % PARALLEL == 0)); then wait; fi
  done
  wait
}

answer_of() { # worker, seconds, command
  local code=0
  on_worker "$1" "$2" "$3" >"$SCRATCH/$1.out" 2>&1 </dev/null || code=$?
  echo "$code" >"$SCRATCH/$1.code"
}

# Whether a worker said the given line; an answer can be cut off, so silence is no success.
said() { grep -qs "^lrt-$2" "$SCRATCH/$1.out"; } # worker, beginning of a line

# Whether a worker was reached at all.
answered() { said "$1" ''; }

name_of() { echo "worker $(($1 % HOSTS)) of $(node_of "$1")"; }

# Names a worker, and shows the end of what it said.
show_worker() { # worker, what is wrong
  warn "$(name_of "$1"): $2"
  grep -v '^lrt-step' "$SCRATCH/$1.out" | tail -n "${3:-20}" | sed 's/^/    | /' >&2 || true
}

# ---------------------------------------------------------------------------- commands

archive() { echo "gs://$BUCKET/lrt_jax/code/$COMMIT.tar.gz"; }

# A call of worker.sh on a worker, with the settings that it needs. One that hangs is ended there:
# paying goes on meanwhile.
worker_command() { # seconds, 0 for no limit; arguments of worker.sh
  local call=(timeout --kill-after=30 "$1" env)
  shift
  worker_settings
  printf '[ -e lrt/code ] || { echo lrt-state absent; exit; }; '
  quoted "${call[@]}" "${WORKER_SETTINGS[@]}" bash lrt/code/launch/worker.sh "$@"
}

worker_settings() { # what worker.sh reads from its environment, in WORKER_SETTINGS
  local name
  WORKER_SETTINGS=()
  for name in PYTHON_VERSION CONFIG DATA MODEL WORKDIR COMPILATION_CACHE TRAIN_FLAGS SLICES; do
    WORKER_SETTINGS+=("$name=${!name}")
  done
}

# The code comes through the bucket: private repositories work, and no key leaves this machine.
upload_code() {
  local try file=$SCRATCH/code.tar.gz
  if ((UPLOADED)); then return; fi
  run git -C "$ROOT" archive --format=tar.gz --output="$file" "$COMMIT" || return 1
  for ((try = 1; try <= CONNECTION_TRIES; try++)); do
    if run gcloud storage cp "$file" "$(archive)" --quiet; then UPLOADED=1; return; fi
    say "the code is not in the bucket yet (try $try of $CONNECTION_TRIES)"
    pause "$POLL_SECONDS"
  done
  warn "the code could not be put on gs://$BUCKET"
  return 1
}

# A worker that may not read the bucket has answered: new nodes would not help.
unpack_command() { # seconds
  printf 'set -o pipefail; mkdir -p lrt/%s; for try in 1 2 3; do ' "$COMMIT"
  printf 'timeout %s gcloud storage cat %s | tar -xz -C lrt/%s && ' "$1" "$(archive)" "$COMMIT"
  printf "ln -sfn %s lrt/code && break; [ \$try = 3 ] && " "$COMMIT"
  printf '{ echo "lrt-failed setup, at: code from the bucket"; exit 1; }; sleep 2; done; '
}

# ---------------------------------------------------------------------------- setup

# Everything that training needs, on all workers; what is there already is not made again.
# Returns NO_ANSWER where a worker cannot be reached.
setup() {
  local try seconds
  upload_code || return 1
  # One first: gcloud makes and spreads a key at the first connection, which must not race.
  on_worker 0 "$CALL_SECONDS" true >"$SCRATCH/first.log" 2>&1 || true
  for ((try = 1; try <= CONNECTION_TRIES; try++)); do
    say "setting up $WORKERS workers: Python $PYTHON_VERSION, libraries, data; some minutes"
    seconds=$(setup_seconds)
    on_all "$seconds" "$(unpack_command "$seconds")$(worker_command "$seconds" setup)"
    if ((DRY_RUN)) || all_said ready "setup failed"; then
      say "all $WORKERS workers are ready"
      return
    fi
    if ((!SILENT)) || taken_away || { ((WATCHING)) && over_cost; }; then break; fi
    say "trying again in $POLL_SECONDS s (time $try of $CONNECTION_TRIES)"
    pause "$POLL_SECONDS"
  done
  if ((SILENT)); then return "$NO_ANSWER"; fi
  return 1
}

# `watch` sets up no longer than until its cap on cost.
setup_seconds() {
  local seconds=$SETUP_SECONDS left
  if ((WATCHING && !DRY_RUN)); then
    left=$(affordable_seconds)
    ((left >= seconds)) || seconds=$((left > 1 ? left : 1)) # 0 were no limit
  fi
  echo "$seconds"
}

# Whether all workers said so; names those that did not. SILENT counts those not heard of, if no
# other failed.
all_said() { # beginning of a line, what it means if it is not said
  local worker failed=0
  SILENT=0
  for ((worker = 0; worker < WORKERS; worker++)); do
    if said "$worker" "$1"; then
      continue
    elif said "$worker" failed; then
      failed=$((failed + 1))
      show_worker "$worker" "$2"
    else
      SILENT=$((SILENT + 1))
      show_worker "$worker" "no answer, or none to the end" 3
    fi
  done
  if ((failed)); then SILENT=0; fi
  ((failed + SILENT == 0))
}

# Whether all are training. SILENT counts those that do not answer.
all_running() {
  local worker running=0
  SILENT=0
  if ((DRY_RUN)); then return 1; fi
  for ((worker = 0; worker < WORKERS; worker++)); do
    if said "$worker" 'state running'; then
      running=$((running + 1))
    elif ! answered "$worker"; then
      SILENT=$((SILENT + 1))
    fi
  done
  ((running == WORKERS))
}

still_there() {
  warn "the nodes are still there, at about \$$(hourly) an hour: launch/tpu_vm.sh delete"
}

# ---------------------------------------------------------------------------- train

# Starts training on all workers or on none: one alone would wait for the others in vain.
# Returns NO_ANSWER where a worker cannot be reached.
train() {
  local try
  for ((try = 1; try <= CONNECTION_TRIES; try++)); do
    look
    if all_running; then
      say "training is running already on all $WORKERS workers"
      return
    fi
    if ((!SILENT)); then # else those that run may run with all others
      stop_training 30
      ask_all "$CALL_SECONDS" train
      if ((DRY_RUN)) || all_said running "training did not start"; then
        say "training runs on $WORKERS workers, detached; its workdir is $WORKDIR"
        return
      fi
    fi
    if ((!SILENT)); then
      stop_training 30
      return 1
    fi
    if taken_away; then break; fi
    say "not all workers answer; trying again in $POLL_SECONDS s (time $try of $CONNECTION_TRIES)"
    pause "$POLL_SECONDS"
  done
  return "$NO_ANSWER"
}

stop_training() { ask_all $(($1 + CALL_SECONDS)) stop "$1"; } # seconds until it is killed

# Asks all workers; said WORKER "state ..." then tells.
look() { ask_all "$CALL_SECONDS" report; }

ask_all() { on_all "$1" "$(worker_command "$@")"; } # seconds; arguments of worker.sh

# ---------------------------------------------------------------------------- looking on

status() {
  local worker
  know_state
  if [[ $STATE == ABSENT ]]; then stop_billing; fi # it may have gone long ago, which nobody saw
  say "$NAME: $STATE; about \$$(spent) until now, at list price; cap \$$MAX_COST"
  [[ $STATE == ACTIVE ]] || return 0
  look
  if ((DRY_RUN)); then return; fi
  for ((worker = 0; worker < WORKERS; worker++)); do
    if answered "$worker"; then
      say "$(name_of "$worker"): $(sed -n 's/^lrt-state //p' "$SCRATCH/$worker.out")" \
        "$(sed -n 's/^lrt-said /| /p' "$SCRATCH/$worker.out")"
    else
      show_worker "$worker" "no answer" 3
    fi
  done
}

# The log of one worker: the last lines, and what follows with -f.
logs() { # [worker] [-f]
  local argument worker=0 limit=$CALL_SECONDS follow=()
  for argument in "$@"; do
    case $argument in
      -f) follow=(-f) limit=0 ;;
      *) worker=$argument ;;
    esac
  done
  if [[ ! $worker =~ ^(0|[1-9][0-9]*)$ ]] || ((worker >= WORKERS)); then
    fail "logs $worker: workers are 0 to $((WORKERS - 1))"
  fi
  on_worker "$worker" "$limit" "$(worker_command "$limit" logs 100 ${follow[@]+"${follow[@]}"})"
}

# Every worker's log, here: the nodes may soon be gone.
save_logs() {
  local worker folder
  folder=$OUTPUT/logs/$(date +%Y%m%d-%H%M%S)
  ask_all "$CALL_SECONDS" logs 2000
  if ((DRY_RUN)); then return; fi
  mkdir -p "$folder"
  for ((worker = 0; worker < WORKERS; worker++)); do
    cp "$SCRATCH/$worker.out" "$folder/worker-$worker.log" 2>/dev/null || true
  done
  say "logs: $folder"
}

# Results, pictures and export; not checkpoints, which are large, nor data.
fetch() {
  local LIMIT=0
  run mkdir -p "$OUTPUT/run"
  run gcloud storage rsync --recursive --exclude='^(checkpoints|data[^/]*|scenes)/.*' "$WORKDIR" \
    "$OUTPUT/run" --quiet || fail "nothing could be fetched from $WORKDIR"
  say "fetched: $OUTPUT/run (results.json, curves.png, export/)"
}
