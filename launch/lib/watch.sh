# shellcheck shell=bash
# The whole life of a run, unattended: what is taken away is made again, and all ends in deletion.

# Exit codes of training that mean: start all again (docs/mesh.md).
AGAIN='^(75|134|143)$'
SETTLING=5 # looks after which workers that go on without the others are stopped

watch() {
  local first=1 missing
  WATCHING=1
  claim_watch
  say "watching $NAME: at most $MAX_ATTEMPTS starts and \$$MAX_COST"
  trap 'exit 130' INT TERM HUP
  trap at_exit EXIT
  # Before anything is rented:
  upload_code || exit 1
  missing=$(missing_folders)
  [[ -z $missing ]] || fail "$missing: nothing is there that you may see"
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
      failed)
        # How an earlier start ended is what somebody has mended before giving this command.
        ((first)) || failed_for_good
        say "$WHY, before this watch: starting all again"
        start ;;
      done)
        finish
        return ;;
    esac
    first=0
  done
}

# Two that watch would each make again what the other deletes. On another machine nobody knows.
claim_watch() {
  local claim=$OUTPUT/watched_by other
  if ((DRY_RUN)); then return; fi
  echo $$ 2>/dev/null >"$claim.$$" || fail "$claim.$$: cannot be written; name another OUTPUT"
  if ! ln "$claim.$$" "$claim" 2>/dev/null; then
    other=$(watcher)
    [[ -z $other ]] || { rm "$claim.$$"; already_watched "$other"; }
    cp "$claim.$$" "$claim" # over that of one that was killed
    sleep 1                 # others may do the same: the last has it
  fi
  rm -f "$claim.$$"
  other=$(<"$claim")
  [[ $other == "$$" ]] || already_watched "$other"
}

already_watched() { fail "process $1 watches $NAME already: \`status\` and \`logs\` look on"; }

# The process that watches this run, if there is one on this machine.
watcher() {
  local other
  other=$(cat "$OUTPUT/watched_by" 2>/dev/null) || return 0
  if ps -p "${other:-0}" -o args= 2>/dev/null | grep -q tpu_vm.sh; then echo "$other"; fi
}

# Nodes that somebody deletes would be made again by who watches.
end_watch() {
  local other i
  if ((DRY_RUN)); then return; fi
  other=$(watcher)
  [[ -n $other ]] || return 0
  say "ending process $other, which watches $NAME"
  kill "$other" || return 1
  for ((i = 0; i < 60; i++)); do
    [[ $(watcher) == "$other" ]] || return 0
    sleep 1
  done
  warn "process $other does not end, and would make again what is deleted: kill -9 $other"
  return 1
}

at_exit() {
  local left
  left=$(jobs -p)
  # shellcheck disable=SC2086 # several processes
  [[ -z $left ]] || kill $left 2>/dev/null || true
  left_alone >&3 2>&3 || true # what was interrupted may have had its output elsewhere
  rm -rf "$SCRATCH"
  [[ $(cat "$OUTPUT/watched_by" 2>/dev/null) != "$$" ]] || rm -f "$OUTPUT/watched_by"
}

# Whoever stops watching is told what goes on without him, however it came.
left_alone() {
  if ((DRY_RUN)); then return; fi
  if [[ -f $OUTPUT/active_since ]]; then
    warn "no longer watching; what has been started on $NAME goes on"
    still_there
  elif [[ -f $OUTPUT/place ]]; then
    warn "no longer watching; $NAME stays in the queue, and costs from when it is there:" \
      "launch/tpu_vm.sh delete"
  fi
}

# Whether all is in the bucket already, and nothing need be rented. Nodes that are there say it
# themselves, when they have put all of it there.
has_ended() {
  local found
  know_state
  [[ $STATE != ACTIVE ]] || return 1
  found=$(ask '' gcloud storage ls "$WORKDIR/results.json" "$WORKDIR/export/config.json" \
    2>/dev/null) && [[ -n $found ]]
}

have_nodes() {
  local code tries=0
  until know_state && [[ $STATE == ACTIVE ]]; do
    if over_cost || over_attempts; then
      delete || exit 1 # a request that waits, too
      fetch_what_there_is
      fail "$WHY; raise it, and \`watch\` goes on from the checkpoint"
    fi
    code=0
    create || code=$?
    case $code in
      0 | "$TAKEN_AWAY") ;;
      *)
        tries=$((tries + 1))
        ((tries < CONNECTION_TRIES && !REFUSED)) || fail "there are no nodes, and nothing to pay"
        say "asking again in $POLL_SECONDS s (time $tries of $CONNECTION_TRIES)"
        pause "$POLL_SECONDS" ;;
    esac
  done
  start_billing
}

# Sets up and starts training; what fails in it is an outcome, too.
start() {
  local code=0
  count_attempt
  setup && train || code=$?
  if ((code == 0)); then
    ((!DRY_RUN)) || SUPPOSED_OUTCOME='done'
  elif over_cost; then
    give_up
  elif ((code == NO_ANSWER)); then
    WHY="no answer in setup or at the start"
    recover
  elif taken_away || { pause "$POLL_SECONDS" && taken_away; }; then
    recover # machines that go down end what is done on them
  else
    WHY="setup or start failed"
    failed_for_good
  fi
}

count_attempt() {
  if ((DRY_RUN)); then return; fi
  if over_attempts; then give_up; fi
  echo $(($(attempts) + 1)) >"$OUTPUT/attempts"
  say "start $(attempts) of at most $MAX_ATTEMPTS"
}

# Starts until now. What cannot be read counts as MAX_ATTEMPTS.
attempts() {
  if absent "$OUTPUT/attempts"; then echo 0
  else whole_number "$OUTPUT/attempts" || echo "$MAX_ATTEMPTS"; fi
}

over_attempts() {
  if ((DRY_RUN || $(attempts) < MAX_ATTEMPTS)); then return 1; fi
  WHY="started $(attempts) times (counted in $OUTPUT/attempts), and MAX_ATTEMPTS is $MAX_ATTEMPTS"
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
        # Without an answer about the request either, it is this machine that is off line.
        if taken_away; then OUTCOME=lost; return; fi
        silent=$((silent + 1))
        if ((silent >= CONNECTION_TRIES)); then OUTCOME=lost; return; fi
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

# Whether Google has taken the nodes; who watches waits for an answer.
taken_away() {
  know_state
  [[ $STATE != ACTIVE && $STATE != UNKNOWN ]] || return 1
  WHY="$NAME was taken away, it is $STATE"
}

# Whether the cap on cost is reached. What is not known to be below it counts as over.
over_cost() {
  local seconds
  if ((DRY_RUN)); then return 1; fi
  if ! seconds=$(billed_seconds); then
    WHY="the cost is not known: $OUTPUT/billed_seconds or active_since holds no number of seconds;\
 write into billed_seconds for how many nodes were there"
    return 0
  fi
  if awk "BEGIN { exit !($seconds / 3600 * $(rate) < $MAX_COST) }"; then return 1; fi
  WHY="\$$(spent) are spent (counted in $OUTPUT/billed_seconds), and MAX_COST is $MAX_COST"
}

# ---------------------------------------------------------------------------- ends

recover() {
  say "$WHY: the nodes are made again, and the run goes on from its last checkpoint"
  delete || exit 1
}

# The run is safe in its bucket, so the nodes go first: nobody pays for them while it is fetched.
finish() {
  delete || exit 1
  (fetch) || fail "the run is whole in $WORKDIR, but was not fetched"
  say "done: $OUTPUT/run/results.json"
}

# A cap: a last checkpoint, what there is of results, and no node.
give_up() {
  warn "$WHY: stopping, with a last checkpoint"
  stop_training "$STOP_SECONDS"
  save_logs || true
  delete || true
  fetch_what_there_is
  fail "$WHY; raise it, and \`watch\` goes on from the checkpoint"
}

# An error that would come again.
failed_for_good() {
  if [[ $OUTCOME == failed ]]; then
    answer_of "$FAILED" "$CALL_SECONDS" "$(worker_command "$CALL_SECONDS" logs 40)"
    show_worker "$FAILED" "training failed; the end of its log:" 40
  fi
  stop_training 30
  save_logs || true
  ((KEEP_ON_FAILURE)) || delete || true
  fetch_what_there_is
  fail "$WHY; mend it, and give the same command again"
}

fetch_what_there_is() { (fetch) || warn "results were not fetched"; }
