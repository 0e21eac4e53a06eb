# shellcheck shell=bash
# The whole life of a run, unattended: what is taken away is made again, and all ends in deletion.

# Exit codes of training that mean: start all again (docs/mesh.md).
AGAIN='^(75|134|143)$'
SETTLING=5 # looks after which workers that go on without the others are stopped

watch() {
  WATCHING=1
  claim_watch
  say "watching $NAME: at most $MAX_ATTEMPTS starts and \$$MAX_COST"
  trap 'left_alone; exit 130' INT TERM
  while :; do
    if has_ended; then
      say "the run in $WORKDIR has ended. To train on, first: gcloud storage rm $WORKDIR/results.json"
      finish
      return
    fi
    have_nodes
    follow
    case $OUTCOME in
      fresh) start ;;
      again)
        say "$WHY: starting all again, from the last checkpoint"
        start ;;
      lost) recover ;;
      cost) give_up ;;
      failed) failed_for_good ;;
      done)
        finish
        return ;;
    esac
  done
}

# Two that watch would each make again what the other deletes. On another machine nobody knows.
claim_watch() {
  local claim=$OUTPUT/watched_by
  if ((DRY_RUN)); then return; fi
  until (set -o noclobber && echo $$ >"$claim") 2>/dev/null; do
    if ps -p "$(<"$claim")" -o args= 2>/dev/null | grep -q tpu_vm.sh; then
      fail "process $(<"$claim") watches $NAME already: \`status\` and \`logs\` look on"
    fi
    rm -f "$claim" # of one that was killed
  done
  trap 'rm -rf "$SCRATCH" "$OUTPUT/watched_by"' EXIT
}

left_alone() {
  if [[ -f $OUTPUT/active_since ]]; then
    warn "no longer watching; training goes on, if it had begun"
    still_there
  elif [[ -f $OUTPUT/place ]]; then
    warn "no longer watching; $NAME stays in the queue, and costs from when it is there:" \
      "launch/tpu_vm.sh delete"
  else
    warn "no longer watching; there is nothing to pay"
  fi
}

# Whether all is in the bucket already, and nothing need be rented. Nodes that are there say it
# themselves, when they have put all of it there.
has_ended() {
  [[ $(known_state) != ACTIVE ]] || return 1
  local found
  found=$(ask '' gcloud storage ls "$WORKDIR/results.json" "$WORKDIR/export/config.json" \
    2>/dev/null) && [[ -n $found ]]
}

have_nodes() {
  local code
  until [[ $(known_state) == ACTIVE ]]; do
    if over_cost || over_attempts; then
      delete # a request that waits, too
      fail "$WHY; raise it, and \`watch\` goes on from the checkpoint"
    fi
    code=0
    create || code=$?
    ((code == 0 || code == TAKEN_AWAY)) || fail "there are no nodes, and nothing to pay"
  done
  start_billing
}

# Sets up and starts training; what fails in it is an outcome, too.
start() {
  local code=0
  count_attempt
  setup && train || code=$?
  case $code in
    0) ((!DRY_RUN)) || SUPPOSED_OUTCOME='done' ;;
    "$NO_ANSWER") WHY="no answer in setup" && recover ;;
    *)
      if over_cost; then give_up; fi
      WHY="setup or start failed"
      failed_for_good ;;
  esac
}

count_attempt() {
  if ((DRY_RUN)); then return; fi
  if over_attempts; then give_up; fi
  echo $(($(attempts) + 1)) >"$OUTPUT/attempts"
  say "start $(attempts) of at most $MAX_ATTEMPTS"
}

attempts() { cat "$OUTPUT/attempts" 2>/dev/null || echo 0; }

over_attempts() {
  if ((DRY_RUN || $(attempts) < MAX_ATTEMPTS)); then return 1; fi
  WHY="started $(attempts) times, which is MAX_ATTEMPTS"
}

# ---------------------------------------------------------------------------- following

# Looks until training is not simply running. Leaves OUTCOME and WHY.
follow() {
  local silent=0 unsettled=0
  while :; do
    WHY=''
    if over_cost; then OUTCOME=cost; return; fi
    look
    judge
    case $OUTCOME in
      running)
        silent=0
        progress ;;
      ending)
        unsettled=$((unsettled + 1))
        if ((unsettled > SETTLING)); then OUTCOME=again; return; fi
        say "$WHY; waiting for the others to end" ;;
      silent)
        silent=$((silent + 1))
        if taken_away || ((silent >= CONNECTION_TRIES)); then OUTCOME=lost; return; fi
        warn "$WHY; asking again in $POLL_SECONDS s ($silent of $CONNECTION_TRIES)" ;;
      *) return ;;
    esac
    pause "$POLL_SECONDS"
  done
}

# One word for what all workers answered: running, ending, done, fresh, again, failed or silent.
judge() {
  local worker state running=0 ended=0 zero=0 fresh=0 silent=0
  if ((DRY_RUN)); then OUTCOME=$SUPPOSED_OUTCOME; return; fi
  OUTCOME=again
  for ((worker = 0; worker < WORKERS; worker++)); do
    state=$(sed -n 's/^lrt-state //p' "$SCRATCH/$worker.out")
    case $state in
      running) running=$((running + 1)) ;;
      'ended 0') zero=$((zero + 1)) ;;
      absent | ready) fresh=$((fresh + 1)) ;;
      '')
        silent=$((silent + 1))
        WHY="no answer from $(name_of "$worker")" ;;
      *)
        ended=$((ended + 1))
        if [[ $state != lost && ! ${state#ended } =~ $AGAIN ]]; then
          FAILED=$worker OUTCOME=failed WHY="$(name_of "$worker") failed with exit code ${state#ended }"
          return
        fi
        WHY="$(name_of "$worker") ${state/ended/ended with exit code}" ;;
    esac
  done
  if ((silent)); then OUTCOME=silent
  elif ((running == WORKERS)); then OUTCOME=running
  elif ((zero == WORKERS)); then OUTCOME='done'
  elif ((fresh == WORKERS)); then OUTCOME=fresh
  elif ((running)); then OUTCOME=ending
  fi
  [[ -n $WHY ]] || WHY="$running of $WORKERS workers run, $zero have finished"
}

progress() {
  say "running; $(sed -n 's/^lrt-said //p' "$SCRATCH/0.out"); \$$(spent) of \$$MAX_COST;" \
    "next look in $POLL_SECONDS s"
}

# Whether Google has taken the nodes; without an answer, nobody knows.
taken_away() {
  local state
  state=$(queue_state)
  [[ $state != ACTIVE && $state != UNKNOWN ]] || return 1
  WHY="$NAME was taken away, it is $state"
}

over_cost() {
  local spent
  if ((DRY_RUN)); then return 1; fi
  spent=$(spent)
  awk "BEGIN { exit !($spent >= $MAX_COST) }" || return 1
  WHY="\$$spent are spent, and MAX_COST is $MAX_COST"
}

# ---------------------------------------------------------------------------- ends

recover() {
  say "$WHY: the nodes are made again, and the run goes on from its last checkpoint"
  delete
}

# The run is safe in its bucket, so the nodes go first: nobody pays for them while it is fetched.
finish() {
  delete
  (fetch) || fail "the run is whole in $WORKDIR, but was not fetched"
  say "done: $OUTPUT/run/results.json"
}

# A cap: a last checkpoint, what there is of results, and no node.
give_up() {
  warn "$WHY: stopping, with a last checkpoint"
  stop_training "$STOP_SECONDS"
  save_logs || true
  delete
  fetch_what_there_is
  fail "$WHY; raise it, and \`watch\` goes on from the checkpoint"
}

# An error that would come again.
failed_for_good() {
  if [[ $OUTCOME == failed ]]; then
    answer_of "$FAILED" "$(worker_command 60 logs 40)"
    show_worker "$FAILED" "training failed; the end of its log:" 40
  fi
  stop_training 30
  save_logs || true
  if ((KEEP_ON_FAILURE)); then
    still_there
  else
    delete
  fi
  fetch_what_there_is
  fail "$WHY; mend it, and give the same command again"
}

fetch_what_there_is() { (fetch) || warn "results were not fetched"; }
