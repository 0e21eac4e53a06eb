# shellcheck shell=bash
# The queued resource and its nodes: shape, state, creation, deletion, cost.

tpus() { # arguments of `gcloud compute tpus`, after ask or run
  GCLOUD=(gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE" --quiet)
}

# ---------------------------------------------------------------------------- shape

# Chips and hosts of a slice, by Google's naming: v4 and v5p count cores, two to a chip and eight to a
# host; up to eight chips of v5e and v6e are on one host, and larger slices have hosts of four.
slice_shape() {
  local size=${TYPE##*-}
  [[ $TYPE =~ ^(v4|v5p|v5litepod|v6e)-[1-9][0-9]*$ ]] ||
    fail "TYPE=$TYPE: not v4-N, v5p-N, v5litepod-N or v6e-N"
  case $TYPE in
    v4-* | v5p-*)
      ((size % 8 == 0)) || fail "TYPE=$TYPE: not a multiple of 8 cores, which a host has"
      CHIPS=$((size / 2)) HOSTS=$((size / 8)) ;;
    *)
      [[ $size =~ ^(1|4|8|16|32|64|128|256)$ ]] ||
        fail "TYPE=$TYPE: slices have 1, 4, 8, 16, 32, 64, 128 or 256 chips"
      CHIPS=$size HOSTS=$((size <= 8 ? 1 : size / 4)) ;;
  esac
  WORKERS=$((HOSTS * SLICES))
}

# The topology of a slice of TYPE, as lrt_jax.plan calls it; empty where there are several.
topology() {
  local kind=${TYPE%-*} shape=''
  case $kind in
    v4 | v5p)
      case $CHIPS in
        4) shape=2x2x1 ;; 8) shape=2x2x2 ;; 16) shape=2x2x4 ;; 32) shape=2x4x4 ;; 64) shape=4x4x4 ;;
        128) shape=4x4x8 ;; 256) shape=4x8x8 ;; 512) shape=8x8x8 ;;
      esac ;;
    *)
      case $CHIPS in
        4) shape=2x2 ;; 8) shape=2x4 ;; 16) shape=4x4 ;; 32) shape=4x8 ;; 64) shape=8x8 ;;
        128) shape=8x16 ;; 256) shape=16x16 ;;
      esac ;;
  esac
  [[ -z $shape ]] || echo "${kind/v5litepod/v5e}:$shape"
}

runtime() {
  if [[ -n $RUNTIME ]]; then echo "$RUNTIME"; return; fi
  case $TYPE in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
  esac
}

# Node of a worker that is counted over all slices.
node_of() {
  if ((SLICES == 1)); then echo "$NAME"; else echo "$NAME-$(($1 / HOSTS))"; fi
}

# ---------------------------------------------------------------------------- cost

# Rough list prices, on demand, US regions; spot costs less, so the cap comes early rather than late.
price() {
  if [[ -n $PRICE ]]; then echo "$PRICE"; return; fi
  case $TYPE in
    v4-*) echo 3.22 ;;
    v5p-*) echo 4.20 ;;
    v5litepod-*) echo 1.20 ;;
    v6e-*) echo 2.70 ;;
  esac
}

rate() { echo "$CHIPS * $SLICES * $(price)"; } # USD an hour

hourly() { calc "$(rate)"; }

# Seconds for which nodes were there: those of earlier nodes, and of the present one until now.
# Fails where the files that count them hold something else: the cost is then not known.
billed_seconds() {
  local now before=0 since
  now=$(date +%s) since=$now
  absent "$OUTPUT/billed_seconds" || before=$(whole_number "$OUTPUT/billed_seconds") || return 1
  absent "$OUTPUT/active_since" || since=$(whole_number "$OUTPUT/active_since") || return 1
  ((since <= now)) || return 1 # a clock was wrong
  echo $((before + now - since))
}

# Whether nothing has this name, be it a folder or a link to nothing.
absent() { [[ ! -e $1 && ! -L $1 ]]; }

# The number that a file holds, and nothing else.
whole_number() {
  local text
  text=$(cat "$1" 2>/dev/null) && [[ $text =~ ^[0-9]{1,12}$ ]] && echo $((10#$text))
}

spent() {
  local seconds
  if seconds=$(billed_seconds); then calc "$seconds / 3600 * $(rate)"; else echo '(unknown)'; fi
}

# Whole seconds until the cap on cost is reached; one where the cost is not known.
affordable_seconds() {
  local seconds
  if seconds=$(billed_seconds); then
    calc_whole "$MAX_COST / ($(rate)) * 3600 - $seconds + 1"
  else
    echo 1
  fi
}

start_billing() { # seconds that have gone by
  ((DRY_RUN)) || ! absent "$OUTPUT/active_since" ||
    calc_whole "$(date +%s) - ${1:-0}" >"$OUTPUT/active_since"
}

stop_billing() {
  if ((!DRY_RUN)) && [[ -f $OUTPUT/active_since ]]; then
    # What cannot be added up stays, line by line, for somebody to put right.
    billed_seconds >"$OUTPUT/billed_seconds.new" ||
      cat "$OUTPUT/billed_seconds" "$OUTPUT/active_since" >"$OUTPUT/billed_seconds.new" 2>/dev/null || true
    mv "$OUTPUT/billed_seconds.new" "$OUTPUT/billed_seconds"
    rm "$OUTPUT/active_since"
  fi
}

# ---------------------------------------------------------------------------- state

# State of the request as Google says it; ABSENT if there is none, UNKNOWN without an answer.
queue_state() {
  local answer
  tpus queued-resources describe "$NAME" --format='value(state.state)'
  if answer=$(ask "$SUPPOSED" "${GCLOUD[@]}" 2>"$SCRATCH/describe.err"); then
    echo "${answer:-UNKNOWN}"
  elif grep -qi 'not.found' "$SCRATCH/describe.err"; then
    echo ABSENT
  else
    echo UNKNOWN
  fi
}

# The same in STATE, asked for until there is an answer. Only who watches waits for it for ever.
know_state() {
  local try
  for ((try = 1; WATCHING || try <= CONNECTION_TRIES; try++)); do
    STATE=$(queue_state)
    if [[ $STATE != UNKNOWN ]]; then return; fi
    warn "no answer about $NAME: is this machine on line? $(tail -n 1 "$SCRATCH/describe.err")"
    say "asking again in $POLL_SECONDS s"
    pause "$POLL_SECONDS"
  done
}

# Whether there is no request, to more than one question: one that was just made may not be listed
# yet, and one that is overlooked costs.
surely_absent() {
  local try
  for ((try = 0; try < 3; try++)); do
    know_state
    [[ $STATE == ABSENT ]] || return 1
    if ((DRY_RUN)); then return; fi
    pause "$POLL_SECONDS"
  done
}

need_nodes() {
  know_state
  [[ $STATE == ACTIVE ]] || fail "$NAME is $STATE, there are no nodes: launch/tpu_vm.sh create"
}

# ---------------------------------------------------------------------------- create

# Elsewhere Google would say of a request that is there, and costs, that there is none; and with
# another type or number the cost would be counted wrongly.
check_place() {
  local asked
  [[ -f $OUTPUT/place ]] || return 0
  asked=$(<"$OUTPUT/place")
  [[ $asked == "$(place)" ]] || fail "$NAME was asked for with $asked: give these, or another NAME"
}

place() { echo "PROJECT=$PROJECT ZONE=$ZONE TYPE=$TYPE SLICES=$SLICES"; }

create() {
  know_state
  case $STATE in
    ACTIVE)
      say "$NAME is there already" ;;
    FAILED | SUSPENDED | SUSPENDING)
      say "the request $NAME is $STATE: it is deleted, and made again"
      delete || exit 1
      request || return 1 ;;
    DELETING)
      wait_until_gone || fail "$NAME is still DELETING; give the same command later"
      request || return 1 ;;
    ABSENT) request || return 1 ;;
    UNKNOWN)
      cat "$SCRATCH/describe.err" >&2
      fail "no answer about $NAME; nothing was changed, give the same command again" ;;
  esac
  wait_until_active
}

request() {
  local flags=("--accelerator-type=$TYPE" "--runtime-version=$(runtime)" "--network=$NETWORK"
    "--valid-until-duration=${WAIT_HOURS}h")
  if ((SLICES == 1)); then
    flags+=("--node-id=$NAME")
  else
    flags+=("--node-count=$SLICES" "--node-prefix=$NAME")
  fi
  case $MODE in
    spot) flags+=(--spot) ;;
    reserved) flags+=(--reserved) ;;
  esac
  [[ -z $SERVICE_ACCOUNT ]] || flags+=("--service-account=$SERVICE_ACCOUNT")
  say "asking for $SLICES x $TYPE ($MODE, $((CHIPS * SLICES)) chips) in $ZONE," \
    "about \$$(hourly) an hour at list price from when it is there"
  tpus queued-resources create "$NAME" "${flags[@]}" --async
  ((DRY_RUN)) || place >"$OUTPUT/place"
  SUPPOSED=ACTIVE
  if run "${GCLOUD[@]}" 2>"$SCRATCH/create.err"; then return; fi
  explain "$(cat "$SCRATCH/create.err")"
  # An answer can be lost on its way here, and the nodes come nevertheless.
  if surely_absent; then
    rm -f "$OUTPUT/place"
    warn "$NAME was not created"
    return 1
  fi
  say "$NAME is $STATE nevertheless"
}

# What to do about what Google says.
explain() {
  REFUSED=0
  printf '%s\n' "$1" >&2
  if [[ $1 == *[Qq]uota* ]]; then
    REFUSED=1 # which another try would not change
    warn "your project may not have so many chips of $TYPE ($MODE) in $ZONE: ask for more at" \
      "https://console.cloud.google.com/iam-admin/quotas?project=$PROJECT (service Cloud TPU API)," \
      "or set another ZONE, MODE or a smaller TYPE; launch/README.md says more"
  fi
}

# Capacity comes when it comes: says every POLL_SECONDS how it stands.
wait_until_active() {
  local began=$SECONDS
  while :; do
    know_state
    case $STATE in
      ACTIVE)
        start_billing
        say "$NAME is ACTIVE: you pay about \$$(hourly) an hour until it is deleted"
        return ;;
      SUSPENDED)
        say "$NAME was taken away again, before it was seen"
        start_billing "$POLL_SECONDS" # no longer than between two looks
        delete || exit 1
        return "$TAKEN_AWAY" ;;
      ABSENT)
        if surely_absent; then
          warn "the request $NAME is not there: somebody has deleted it, or it has expired"
          return 1
        fi ;;
      FAILED)
        why_failed
        return 1 ;;
      WAITING_FOR_RESOURCES | ACCEPTED)
        say "no capacity yet: $NAME is $STATE, for $(((SECONDS - began) / 60)) min; nothing to pay." \
          "Looking again in $POLL_SECONDS s; Ctrl-C leaves it in the queue for $WAIT_HOURS h at most" ;;
      *) say "$NAME is $STATE; looking again in $POLL_SECONDS s" ;;
    esac
    pause "$POLL_SECONDS"
  done
}

# Says what became of a request, and removes it, since dead requests count against the quota.
why_failed() {
  tpus queued-resources describe "$NAME" --format='value(state)'
  warn "the request $NAME is $STATE"
  explain "$(ask '' "${GCLOUD[@]}" 2>&1 || true)"
  delete || exit 1
}

# ---------------------------------------------------------------------------- delete

# Deletes request and nodes, and believes it only when Google says that they are gone.
delete() {
  local try
  tpus queued-resources delete "$NAME" --force --async
  local deletion=("${GCLOUD[@]}")
  for try in 1 2 3; do
    know_state
    if [[ $STATE == ABSENT ]]; then break; fi
    run "${deletion[@]}" 2>"$SCRATCH/delete.err" || warn "try $try: $(tail -n 1 "$SCRATCH/delete.err")"
    SUPPOSED=ABSENT
    ! wait_until_gone || break
  done
  delete_orphans
  if [[ $(queue_state) == ABSENT && -z $(nodes) ]]; then
    stop_billing
    ((DRY_RUN)) || rm -f "$OUTPUT/place"
    say "$NAME is gone: you pay for no TPU of it; \$$(spent) in all, at list price"
    return
  fi
  still_paying
}

wait_until_gone() {
  local i
  for ((i = 0; i < 10; i++)); do
    know_state
    case $STATE in
      ABSENT) return 0 ;;
      DELETING | SUSPENDING | UNKNOWN) ;;
      *) ((i < 2)) || return 1 ;;
    esac
    say "waiting until $NAME is gone; looking again in $POLL_SECONDS s"
    pause "$POLL_SECONDS"
  done
  return 1
}

# Nodes of this run, one a line; without an answer, a line that says so. A node of that name may be
# another request's, of a NAME with a number at its end.
nodes() {
  local name=$NAME own="queuedResource~\"/$NAME\$\" OR NOT queuedResource:*"
  ((SLICES == 1)) || name+='-[0-9]+'
  tpus tpu-vm list --filter="name~\"(^|/)$name\$\" AND ($own)" --format='value(name)'
  ask '' "${GCLOUD[@]}" 2>"$SCRATCH/list.err" || echo NO_ANSWER
}

# Nodes can outlive their request.
delete_orphans() {
  local node
  [[ $(queue_state) == ABSENT ]] || return 0
  for node in $(nodes); do
    [[ $node != NO_ANSWER ]] || continue
    warn "the node ${node##*/} has no request any more: it is deleted too"
    tpus tpu-vm delete "${node##*/}"
    run "${GCLOUD[@]}" || true
  done
}

still_paying() {
  cat "$SCRATCH"/{delete,list}.err >&2 2>/dev/null || true
  warn "$NAME COULD NOT BE DELETED, and you may be PAYING \$$(hourly) an hour." \
    "Give \`launch/tpu_vm.sh delete\` again, or delete it by hand:" \
    "https://console.cloud.google.com/compute/tpus?project=$PROJECT"
  return 1
}
