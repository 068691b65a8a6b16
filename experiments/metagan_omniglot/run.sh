#!/usr/bin/env bash
# All runs of this study, from the root of the repository: one line a variant, three seeds or six.
# bash experiments/metagan_omniglot/run.sh [protonet|maml|protonet_5w5s|nonsaturating]; without a name, all.
set -euo pipefail
sweep() { local name=$1; shift; python run.py -m experiment=metagan_ablation "seed=${seeds:-0,1,2}" name="ablation/$name" "$@"; }

protonet() {
  sweep protonet/host method=protonet
  sweep protonet/metagan method=metagan_protonet method.outer_real=0.2 method.outer_fake=0.2 method.generator_every=1
  sweep protonet/weak method=metagan_protonet method.generator_every=1
  sweep protonet/slow method=metagan_protonet
  sweep protonet/untrained method=metagan_protonet method.outer_real=0.2 method.outer_fake=0.2 method.generator_every=0
}
maml() {
  seeds=0,1,2,3,4,5 sweep maml/host method=maml
  seeds=0,1,2,3,4,5 sweep maml/metagan method=metagan
  sweep maml/outer method=metagan method.inner_real=0 method.inner_fake=0
  sweep maml/inner method=metagan method.outer_real=0 method.outer_fake=0
  sweep maml/untrained method=metagan method.generator_every=0
}
protonet_5w5s() {
  sweep protonet_5w5s/host task=5w5s method=protonet
  sweep protonet_5w5s/metagan task=5w5s method=metagan_protonet
}
nonsaturating() {
  sweep nonsaturating/protonet method=metagan_protonet method.generator_loss=nonsaturating method.generator_every=1
  sweep nonsaturating/maml_outer method=metagan method.inner_real=0 method.inner_fake=0 method.generator_loss=nonsaturating
}

for part in "${@:-protonet maml protonet_5w5s nonsaturating}"; do for one in $part; do $one; done; done
