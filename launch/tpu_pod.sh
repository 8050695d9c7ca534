#!/bin/bash
# Train on a Cloud TPU pod slice, from your own machine: installs jaxdino on every host and starts one process on each.
#
#   TPU=my-slice ZONE=us-east5-a WORKDIR=/mnt/shared/runs/mine launch/tpu_pod.sh --config=gradual:dinov3_vitb16 ...
#
# The processes find each other by the metadata of the slice. WORKDIR must be shared by the hosts: a network file
# system (Filestore) mounted on all of them. The same command goes on after an interruption. DRY=1 prints the commands.
set -eu
: "${TPU:?the name of the TPU}" "${ZONE:?its zone}" "${WORKDIR:?the run folder, shared by all hosts}"
PACKAGE=${PACKAGE:-"jaxdino[tpu]"}
DRY=${DRY:-}

on_all() {
    set -- gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
    if [ -n "$DRY" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}

flags=$(printf '%q ' "$@" "--workdir=$WORKDIR")
on_all "python3 -m venv \$HOME/jaxdino && \$HOME/jaxdino/bin/pip install -q $(printf '%q' "$PACKAGE")"
on_all "\$HOME/jaxdino/bin/jaxdino train $flags"
