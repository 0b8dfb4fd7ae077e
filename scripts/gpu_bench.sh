#!/bin/sh
# Measures SDXL-sized steps on one GPU, fewstep and PyTorch on the same card, one JSON line each on stdout; the rest goes to
# stderr. Every measurement has its own timeout, so that a failure costs no other. Needs bin/fewstep (make build) and, for
# the plugin and for PyTorch, python3 with jax[cuda13] and torch.
#
#   scripts/gpu_bench.sh                            # everything, one after the other
#   scripts/gpu_bench.sh ours:adv-full:1 torch:adv-full:1 "torch:mse-lora:4:--ckpt 1"
#
# A measurement is WHO:STEP:BATCH[:MORE ARGUMENTS]. LIMIT is the seconds for each (240), YARDSTICK the PyTorch script.
set -u
LIMIT=${LIMIT:-240}
YARDSTICK=${YARDSTICK:-shared/bench/torch_baseline.py}
OURS="--preset sdxl --compute bf16 --frozen bf16 --granularity layer"
export FEWSTEP_PROGRAM_CACHE=${FEWSTEP_PROGRAM_CACHE:-/tmp/fewstep-programs}

if [ $# -eq 0 ]; then
	set -- doctor \
		ours:forward:1 "ours:forward:1:--calls network" torch:forward:1 "torch:forward:1:--compile 1" \
		ours:forward:4 "ours:forward:4:--calls network" torch:forward:4 "torch:forward:4:--compile 1" \
		ours:mse-lora:1 ours:mse-lora:4 torch:mse-lora:1 torch:mse-lora:4 "torch:mse-lora:4:--ckpt 1" \
		ours:adv-lora:1 ours:adv-lora:4 torch:adv-lora:1 "torch:adv-lora:4:--ckpt 1" \
		ours:adv-full:1 ours:adv-full:2 torch:adv-full:1 "torch:adv-full:1:--ckpt 1" \
		ours:vae-encode:1 ours:vae-decode:1
fi
for m in "$@"; do
	who=${m%%:*} rest=${m#*:}
	step=${rest%%:*} rest=${rest#*:}
	batch=${rest%%:*}
	more=
	case $rest in *:*) more=${rest#*:} ;; esac
	start=$(date +%s)
	case $who in
	doctor) timeout "$LIMIT" bin/fewstep doctor >&2 ;;
	# shellcheck disable=SC2086 # arguments are split on purpose
	ours) timeout "$LIMIT" bin/fewstep bench -q --backend cuda $OURS --step "$step" --batch "$batch" $more ;;
	# shellcheck disable=SC2086
	torch) timeout "$LIMIT" python3 "$YARDSTICK" --preset sdxl --step "$step" --batch "$batch" $more ;;
	*) echo "gpu_bench: what is '$m'? WHO is doctor, ours or torch" >&2; exit 2 ;;
	esac
	echo "gpu_bench: $m: status $?, $(($(date +%s) - start)) s" >&2
done
