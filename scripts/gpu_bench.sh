#!/bin/sh
# Measures SDXL-sized steps on one GPU, fewstep and PyTorch on the same card, one JSON line each on stdout; the rest goes to
# stderr. Every measurement has its own timeout, so that a failure costs no other. Needs bin/fewstep (make build) and, for
# the plugin and for PyTorch, python3 with jax[cuda13] and torch.
#
#   scripts/gpu_bench.sh                            # everything, one after the other
#   scripts/gpu_bench.sh ours:adv-full:1 torch:adv-full:1 "torch:mse-lora:4:--ckpt 1"
#
# A measurement is WHO:STEP:BATCH[:MORE ARGUMENTS]. WHO is doctor, torch, ours, or ours with a variant of the compiler's
# settings after an @ (see variant below), or blocks: PyTorch with the network's blocks compiled one by one. LIMIT is the
# seconds for each (240), YARDSTICK the PyTorch script.
set -u
LIMIT=${LIMIT:-240}
YARDSTICK=${YARDSTICK:-shared/bench/torch_baseline.py}
OURS="--preset sdxl --compute bf16 --frozen bf16 --granularity layer"
export FEWSTEP_PROGRAM_CACHE=${FEWSTEP_PROGRAM_CACHE:-/tmp/fewstep-programs}

# variant prints XLA flags. Programs of other flags have other names in the cache, so that each variant is compiled cold.
variant() {
	case $1 in
	plain) ;;
	# Compile time: no trying out of kernels at all; no Triton products, of which each is tried in many tilings; one program's
	# kernels compiled side by side.
	untuned) echo --xla_gpu_autotune_level=0 ;;
	notriton) echo --xla_gpu_enable_triton_gemm=false ;;
	sidebyside) echo "--xla_gpu_enable_llvm_module_compilation_parallelism=true --xla_gpu_force_compilation_parallelism=16" ;;
	# Dispatch: a block's program runs on other buffers each time, and its command buffers are rewritten each time: 18 ms of
	# the 37 ms that queueing a forward pass took. So none; and, for comparison, of as few as two kernels.
	nographs) echo --xla_gpu_enable_command_buffer= ;;
	# Products of one input merged into one whose result is cut apart, as XLA has it.
	merged) echo --xla_gpu_dot_merger_threshold_mb=32 ;;
	# XLA's own way of trying out kernels, and without what comes with the binary.
	level4) echo "--xla_gpu_autotune_level=4 --xla_gpu_load_autotune_results_from= --xla_gpu_per_fusion_autotune_cache_dir=" ;;
	smallgraphs) echo --xla_gpu_graph_min_graph_size=2 ;;
	*) echo "gpu_bench: no variant '$1'" >&2; exit 2 ;;
	esac
}

if [ $# -eq 0 ]; then
	# First what decides the defaults: the forward pass was bound by dispatch, the cold start by compiling. Then the table.
	set -- doctor \
		ours:forward:1 ours@nographs:forward:1 "ours:forward:1:--calls network" "ours:forward:1:--calls stage" \
		ours@untuned:forward:1 ours@notriton:forward:1 ours@level4:forward:1 ours@sidebyside:forward:1 \
		ours@smallgraphs:forward:1 ours@merged:forward:1 ours@merged:adv-full:1 torch:forward:1 "torch:forward:1:--compile 1" \
		ours:adv-full:1 ours@nographs:adv-full:1 torch:adv-full:1 "torch:adv-full:1:--ckpt 1" \
		ours:adv-lora:1 torch:adv-lora:1 ours:mse-lora:1 torch:mse-lora:1 \
		ours:forward:4 "ours:forward:4:--calls network" torch:forward:4 "torch:forward:4:--compile 1" \
		ours:mse-lora:4 torch:mse-lora:4 "torch:mse-lora:4:--ckpt 1" ours:adv-lora:4 "torch:adv-lora:4:--ckpt 1" \
		ours:adv-full:2 ours:vae-encode:1 ours:vae-decode:1
fi
for m in "$@"; do
	who=${m%%:*} rest=${m#*:}
	step=${rest%%:*} rest=${rest#*:}
	batch=${rest%%:*}
	more=
	case $rest in *:*) more=${rest#*:} ;; esac
	flags=
	case $who in *@*) flags=$(variant "${who#*@}") || exit 2; who=${who%%@*} ;; esac
	start=$(date +%s)
	case $who in
	doctor) timeout "$LIMIT" bin/fewstep doctor >&2 ;;
	# shellcheck disable=SC2086 # arguments are split on purpose
	ours) XLA_FLAGS="${XLA_FLAGS:-} $flags" timeout "$LIMIT" bin/fewstep bench -q --backend cuda $OURS --step "$step" --batch "$batch" $more ;;
	# shellcheck disable=SC2086
	torch) timeout "$LIMIT" python3 "$YARDSTICK" --preset sdxl --step "$step" --batch "$batch" $more ;;
	# shellcheck disable=SC2086
	blocks) timeout "$LIMIT" python3 scripts/torch_blocks.py "$YARDSTICK" --preset sdxl --step "$step" --batch "$batch" $more ;;
	*) echo "gpu_bench: what is '$m'? WHO is doctor, ours, ours@VARIANT, torch or blocks" >&2; exit 2 ;;
	esac
	echo "gpu_bench: $m: status $?, $(($(date +%s) - start)) s" >&2
done
