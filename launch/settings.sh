# shellcheck shell=bash
# Settings of launch/tpu_vm.sh. Change the values here, or set them in the environment, which wins:
#     TYPE=v6e-64 ZONE=us-east5-b launch/tpu_vm.sh check
# No password, key or token belongs in here: workers use their service account.

# --- where
: "${PROJECT:=}"                  # Google Cloud project; empty: that of `gcloud config get project`
: "${ZONE:=us-west4-a}"           # must offer TYPE; `check` asks
: "${BUCKET:=}"                   # Cloud Storage bucket, without gs://, in the region of ZONE
: "${NETWORK:=default}"           # must let ssh in (port 22)
: "${SERVICE_ACCOUNT:=}"          # of the workers; empty: the project's default. Needs the bucket

# --- what
: "${NAME:=lrt}"                  # of the request, its nodes and the run's folder
: "${TYPE:=v5litepod-64}"         # accelerator type: v5litepod-N, v6e-N (chips), v5p-N, v4-N (cores)
: "${SLICES:=1}"                  # of TYPE each; above 1 they train together (multislice)
: "${MODE:=spot}"                 # spot: cheap, may be taken away; on-demand; reserved
: "${RUNTIME:=}"                  # TPU VM image; empty: the one for TYPE
: "${WAIT_HOURS:=24}"             # a request that is not filled by then expires

# --- the run
: "${COMMIT:=HEAD}"               # of this repository; that is what runs, not the working tree
: "${PYTHON_VERSION:=3.11.13}"    # exactly this one, on all workers
: "${CONFIG:=configs/imagereward.py:7b}"
: "${DATA:=}"                     # gs:// folder of a prepared data set, copied to every worker
: "${MODEL:=}"                    # gs:// folder of a model, likewise; empty: as CONFIG says
# Further flags of lrt_jax.main, split at spaces, such as --config.steps=400.
: "${TRAIN_FLAGS:=}"

# --workdir of the run: in a bucket, which all workers see and which outlives them.
: "${WORKDIR:=gs://$BUCKET/lrt_jax/runs/$NAME}"

# Compiled programs of all runs, so that new nodes need not compile them; off for none.
: "${COMPILATION_CACHE:=gs://$BUCKET/lrt_jax/compiled}"

# --- money and patience
: "${PRICE:=}"                    # USD per chip and hour; empty: a rough on-demand list price
: "${MAX_COST:=200}"              # USD; `watch` stops the run and deletes the nodes there
: "${MAX_ATTEMPTS:=20}"           # starts of training, the first and after every loss
: "${KEEP_ON_FAILURE:=0}"         # 1: `watch` leaves the nodes, and you pay, where training failed

# --- of this machine
: "${PYTHON:=python3}"            # with this project installed: checks CONFIG before anything is rented
: "${OUTPUT:=runs/launch/$NAME}"  # of the checkout: results, logs, the tally of cost
: "${POLL_SECONDS:=60}"           # between two looks at what is waited for
: "${PARALLEL:=16}"               # ssh connections at once
: "${CONNECTION_TRIES:=5}"        # looks without an answer before a node counts as lost
: "${CALL_SECONDS:=120}"          # for a call of gcloud, and for an answer of a worker
: "${SETUP_SECONDS:=3600}"        # for setup on a worker, which has failed after it
: "${PLAN_SECONDS:=1800}"         # for `check` to find out whether CONFIG fits the chips
: "${STOP_SECONDS:=900}"          # for a last checkpoint, before training is killed
