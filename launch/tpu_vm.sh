#!/usr/bin/env bash
# Trains on Google Cloud TPU VMs: launch/README.md is the way in, launch/settings.sh the settings.
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DRY_RUN=0
WATCHING=0
UPLOADED=0
REFUSED=0
exec 3>&1 # dry runs print commands there, also where an answer is being read

source "$ROOT/launch/settings.sh"
source "$ROOT/launch/lib/say.sh"
source "$ROOT/launch/lib/node.sh"
source "$ROOT/launch/lib/check.sh"
source "$ROOT/launch/lib/workers.sh"
source "$ROOT/launch/lib/watch.sh"

usage() {
  cat <<'END'
usage: launch/tpu_vm.sh [--dry-run] COMMAND

  check          what is needed is there: account, project, quota, bucket, zone
  create         asks for the TPU, and waits until it is there
  setup          Python, the code at COMMIT, libraries and data, on all workers
  train          starts training on all workers, detached
  watch          all of it: create, setup, train, again after losses, delete, fetch
  status         state of the nodes, of every worker, and the cost until now
  logs [N] [-f]  log of worker N (0); -f goes on
  fetch          results, pictures and export, from the bucket
  delete         ends it all, and the paying

--dry-run prints the commands, and runs none. Settings: launch/settings.sh or the environment.
Everything can be given again. Exit code 0: done; 1: not; 2: no such command.
END
}

need() { command -v "$1" >/dev/null || fail "$1 is not installed: $2"; }

# What is no number would be compared as text, and a cap on cost never be reached.
check_numbers() {
  local name
  for name in MAX_ATTEMPTS SLICES WAIT_HOURS PARALLEL CONNECTION_TRIES CALL_SECONDS SETUP_SECONDS PLAN_SECONDS STOP_SECONDS; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name=${!name}: not a number of 1 or more"
  done
  for name in MAX_COST POLL_SECONDS ${PRICE:+PRICE}; do
    [[ ${!name} =~ ^[0-9]+([.][0-9]+)?$ ]] || fail "$name=${!name}: not a number, such as 0.5"
  done
  [[ ! $PRICE =~ ^[0.]+$ ]] || fail "PRICE=$PRICE: MAX_COST would never be reached; raise that instead"
  [[ $KEEP_ON_FAILURE =~ ^[01]$ ]] || fail "KEEP_ON_FAILURE=$KEEP_ON_FAILURE: not 0 or 1"
}

check_names() {
  local name
  [[ $MODE =~ ^(spot|on-demand|reserved)$ ]] || fail "MODE=$MODE: not spot, on-demand or reserved"
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "NAME=$NAME: small letters, digits and dashes, no dash at the end, 40 at most"
  [[ -z $BUCKET || $BUCKET =~ ^[a-z0-9][-_.a-z0-9]*[a-z0-9]$ ]] ||
    fail "BUCKET=$BUCKET: not the name of a bucket, without gs://"
  for name in DATA MODEL; do
    [[ -z ${!name} || ${!name} =~ ^gs://[^/[:space:]]+(/[^[:space:]]*)?$ ]] ||
      fail "$name=${!name}: not a folder in a bucket, gs://BUCKET/FOLDER"
  done
}

# Settings that many commands need, checked at once.
prepare() {
  need gcloud "https://cloud.google.com/sdk/docs/install, or use Cloud Shell"
  need git "the code that runs is a commit"
  need timeout "it is one of GNU's coreutils (brew install coreutils)"
  check_numbers
  check_names
  slice_shape
  if [[ -z $PROJECT ]]; then
    PROJECT=$(ask MY-PROJECT gcloud config get project 2>/dev/null) || true
  fi
  [[ -n $PROJECT ]] || fail "PROJECT is not set: gcloud config set project YOUR_PROJECT"
  git -C "$ROOT" rev-parse --verify --quiet "$COMMIT^{commit}" >/dev/null ||
    fail "COMMIT=$COMMIT: there is no such commit in $ROOT"
  COMMIT=$(git -C "$ROOT" rev-parse "$COMMIT^{commit}")
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
  [[ $OUTPUT == /* ]] || OUTPUT=$ROOT/$OUTPUT # from whichever folder: the cost is counted there
  ((DRY_RUN)) || mkdir -p "$OUTPUT"
  WORKDIR=${WORKDIR%/}
  if ((DRY_RUN)); then say "a dry run: nothing is run, and every answer is supposed"; fi
}

main() {
  local command='' argument rest=()
  for argument in "$@"; do
    if [[ $argument == --dry-run ]]; then DRY_RUN=1
    elif [[ -z $command ]]; then command=$argument
    else rest+=("$argument"); fi
  done
  if [[ $command != logs ]] && ((${#rest[@]})); then
    printf 'error: %s takes no %s\n' "$command" "${rest[*]}" >&2
    exit 2
  fi
  # What a dry run supposes the state to be.
  SUPPOSED=ACTIVE SUPPOSED_OUTCOME=fresh
  case $command in
    create | watch) SUPPOSED=ABSENT ;;
    check | setup | train | status | logs | fetch | delete) ;;
    -h | --help | help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  prepare
  [[ $command == check ]] || check_place
  case $command in
    setup | train | watch | fetch)
      [[ -n $BUCKET ]] || fail "BUCKET is not set: the code goes through it, and the run is in it"
      [[ $WORKDIR == gs://?* ]] || fail "WORKDIR=$WORKDIR: name gs://BUCKET/FOLDER" ;;
  esac
  case $command in
    create | watch)
      PROBLEMS=0
      check_config
      ((PROBLEMS == 0)) || fail "nothing was rented" ;;
  esac
  case $command in
    create) create || fail "there are no nodes, and nothing to pay" ;;
    delete) end_watch && delete || exit 1 ;;
    setup | train)
      need_nodes
      "$command" || { still_there; exit 1; } ;;
    *) "$command" ${rest[@]+"${rest[@]}"} ;;
  esac
}

main "$@"
