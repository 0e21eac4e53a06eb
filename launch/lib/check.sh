# shellcheck shell=bash
# What must be there before money is spent. Changes nothing.

check() {
  PROBLEMS=0
  good "$SLICES x $TYPE in $ZONE, $MODE: $((CHIPS * SLICES)) chips on $WORKERS workers," \
    "about \$$(hourly) an hour at on-demand list price; \`watch\` stops at \$$MAX_COST"
  check_settings
  check_account
  check_project
  check_type
  check_quota
  check_bucket
  check_folders
  check_config
  check_plan
  ((PROBLEMS == 0)) || fail "$PROBLEMS of these must be mended first"
  if ((DRY_RUN)); then
    say "nobody was asked: without --dry-run, check says what is there"
  else
    say "all is there: launch/tpu_vm.sh watch"
  fi
}

good() { say "ok   $*"; }

# The same of what somebody was asked for, which a dry run only supposes.
found() { if ((DRY_RUN)); then say "?    supposed: $*"; else good "$*"; fi; }

bad() {
  PROBLEMS=$((PROBLEMS + 1))
  warn "NO   $*"
}

check_settings() {
  if [[ $WORKDIR == gs://?* ]]; then
    good "the run is in $WORKDIR"
  else
    bad "WORKDIR=$WORKDIR: name a folder of a bucket, gs://BUCKET/FOLDER, which outlives the nodes"
  fi
  if [[ -n $(git -C "$ROOT" status --porcelain 2>/dev/null) ]]; then
    warn "note: uncommitted changes do not run; the commit $COMMIT does"
  fi
}

check_account() {
  local account
  account=$(ask me@example.com gcloud auth list --filter=status:ACTIVE --format='value(account)') ||
    true
  if [[ -n $account ]]; then
    found "account $account"
  else
    bad "nobody is logged in: gcloud auth login"
  fi
}

check_project() {
  local billing enabled
  billing=$(ask True gcloud billing projects describe "$PROJECT" --format='value(billingEnabled)') ||
    true
  if [[ $billing == True ]]; then
    found "project $PROJECT, with billing"
  else
    bad "project $PROJECT is not yours, or has no billing account:" \
      "https://console.cloud.google.com/billing/linkedaccount?project=$PROJECT"
  fi
  enabled=$(ask tpu.googleapis.com gcloud services list --enabled --project="$PROJECT" \
    --filter='config.name=tpu.googleapis.com' --format='value(config.name)') || true
  if [[ -n $enabled ]]; then
    found "Cloud TPU API"
  else
    bad "the Cloud TPU API is off: gcloud services enable tpu.googleapis.com --project=$PROJECT"
  fi
}

check_type() {
  local types
  tpus accelerator-types list --format='value(type)'
  if ! types=$(ask "$TYPE" "${GCLOUD[@]}"); then
    bad "no answer about zone $ZONE; TPU zones: gcloud compute tpus locations list"
  elif grep -qx -e "$TYPE" -e ".*/$TYPE" <<<"$types"; then
    found "zone $ZONE has $TYPE"
  else
    bad "zone $ZONE has no $TYPE, but: $(tr '\n' ' ' <<<"$types")"
  fi
}

# Names of quotas, as Google's API has them.
quota_id() {
  local preemptible=''
  [[ $MODE != spot ]] || preemptible=Preemptible
  case $TYPE in
    v4-*) echo "TPUV4s${preemptible}PodPerProjectPerZoneForTPUAPI" ;;
    v5p-*) echo "TPUV5P${preemptible}PerProjectPerZoneForTPUAPI" ;;
    v5litepod-*) echo "TPUV5s${preemptible}LitepodPerProjectPerZoneForTPUAPI" ;;
    v6e-*) echo "TPUV6E${preemptible}PerProjectPerZoneForTPUAPI" ;;
  esac
}

# The quota's table has a line for each zone that differs from the default.
check_quota() {
  local table value id
  id=$(quota_id)
  if [[ $MODE == reserved ]]; then
    say "     a reservation has its own quota, which is not looked at"
    return
  fi
  table=$(ask "$ZONE,$((CHIPS * SLICES))" gcloud beta quotas info describe "$id" \
    --service=tpu.googleapis.com --project="$PROJECT" --flatten='dimensionsInfos[]' \
    --format='csv[no-heading](dimensionsInfos.dimensions.zone,dimensionsInfos.details.value)') ||
    true
  value=$(awk -F, -v zone="$ZONE" '$1 == zone { print $2 }' <<<"$table")
  if [[ ! $value =~ ^-?[0-9]+$ ]]; then
    warn "     quota $id could not be read for $ZONE: if \`create\` refuses, ask for it at" \
      "https://console.cloud.google.com/iam-admin/quotas?project=$PROJECT"
  elif ((value == -1 || value >= CHIPS * SLICES)); then
    found "quota $id in $ZONE: $value"
  else
    bad "quota $id in $ZONE is $value, and $((CHIPS * SLICES)) chips are wanted: ask for more at" \
      "https://console.cloud.google.com/iam-admin/quotas?project=$PROJECT"
  fi
}

# Across regions every byte is slow and paid for. A multi-region covers its continent.
check_bucket() {
  local place region=${ZONE%-*}
  if [[ -z $BUCKET ]]; then
    bad "BUCKET is not set: code, data and results go through it:" \
      "gcloud storage buckets create gs://NAME --location=$region --project=$PROJECT"
    return
  fi
  place=$(ask "$region" gcloud storage buckets describe "gs://$BUCKET" --format='value(location)' |
    tr '[:upper:]' '[:lower:]') || true
  case $place in
    '')
      bad "there is no bucket gs://$BUCKET that you may see:" \
        "gcloud storage buckets create gs://$BUCKET --location=$region --project=$PROJECT" ;;
    "$region") found "bucket gs://$BUCKET in $place" ;;
    us | eu | asia)
      if [[ $region == "$place"* ]]; then found "bucket gs://$BUCKET in $place"; else far "$place"; fi ;;
    *) far "$place" ;;
  esac
}

check_folders() {
  local missing
  missing=$(missing_folders)
  [[ -z $missing ]] || bad "$missing: nothing is there that you may see; put it there:" \
    "gcloud storage rsync --recursive FOLDER gs://BUCKET/FOLDER"
}

# DATA and MODEL, where nothing is in the bucket under their names.
missing_folders() {
  local name missing=''
  for name in DATA MODEL; do
    [[ -z ${!name} || -n $(ask there gcloud storage ls "${!name}" 2>/dev/null) ]] ||
      missing+="${missing:+, }$name=${!name}"
  done
  echo "$missing"
}

# What training would refuse on the workers, it refuses here: by the code at COMMIT, as a worker
# calls it.
check_config() {
  local said
  worker_settings
  if said=$(config_answer); then
    found "$CONFIG: ${said##*$'\n'}"
  else
    bad "$CONFIG, with DATA, MODEL and TRAIN_FLAGS, would not train:"
    printf '     | %s\n' "${said//$'\n'/$'\n     | '}" >&2
    [[ $said != *ModuleNotFoundError* && $said != *"not found"* ]] ||
      warn "     PYTHON=$PYTHON must have this project: pip install -e $ROOT"
  fi
}

config_answer() {
  local code=$SCRATCH/code
  if ((!DRY_RUN)); then
    mkdir -p "$code"
    git -C "$ROOT" archive "$COMMIT" | tar -x -C "$code"
  fi
  ask 'no problem' env "${WORKER_SETTINGS[@]}" "PYTHON=$PYTHON" \
    bash "$code/launch/worker.sh" check $((CHIPS * SLICES)) 2>&1
}

# Whether the run fits the chips, by their compiler, where this machine has it. That takes minutes.
check_plan() {
  local said code=0 shape
  ((PROBLEMS == 0)) || return 0 # first things first
  shape=$(topology)
  if [[ -z $shape || -n $MODEL ]]; then
    say "     memory is not looked at: lrt_jax.plan does that for a topology, and a model that is here"
    return
  fi
  said=$(plan_answer "$shape") || code=$?
  if ((code == 0)); then
    found "$CONFIG on $shape: $(grep -m 1 memory <<<"$said")"
  elif ((code == 3)); then
    say "     memory is not looked at: PYTHON=$PYTHON has no libtpu, which compiles for TPUs"
  elif [[ $said == *"does not fit"* ]]; then
    bad "$CONFIG does not fit $shape, by TPU's own compiler:"
    printf '     | %s\n' "${said//$'\n'/$'\n     | '}" >&2
  elif ((code == 124)); then # of timeout
    warn "     memory could not be looked at: it took longer than PLAN_SECONDS=$PLAN_SECONDS;" \
      "give it more"
  else
    warn "     memory could not be looked at: $(grep -m 1 -A 3 error <<<"$said")"
  fi
}

plan_answer() { # topology
  LIMIT=$PLAN_SECONDS ask 'memory: enough' env "${WORKER_SETTINGS[@]}" "PYTHON=$PYTHON" \
    bash "$SCRATCH/code/launch/worker.sh" plan "$1" 2>&1
}

far() { bad "bucket gs://$BUCKET is in $1, and the TPU in ${ZONE%-*}: take one in that region"; }
