#!/bin/sh
# Measures training steps on one and on several devices of this machine, one JSON line each, and prints the table.
# It ends within BUDGET seconds (580): what there was no time for is named on stderr, and runs with the same OUT go on with it.
#
#   train/bench/scaling.sh                                    # SDXL on 1 and 2 GPUs
#   DEVICES="1 2 4 8" train/bench/scaling.sh                  # on eight
#   ARGS="--preset mini --granularity layer" PER=2 BACKEND=cpu train/bench/scaling.sh   # on virtual CPU devices
#
# STEPS are the kinds of step, PER the samples of a micro-batch on each device, ACCUMULATE the micro-batches of an update.
# Every step is measured on one device with the same samples per device and with the same samples in all; on several
# replicated and sharded, and with gradients added up in bf16. Then LADDER's first stage is trained on all devices, killed (-9)
# at a checkpoint, stopped by a signal, continued on half as many and checked. Needs bin/fewstep (make build).
set -u
STEPS=${STEPS:-"adv-full adv-lora mse-lora"}
DEVICES=${DEVICES:-"1 2"}
PER=${PER:-2}
ACCUMULATE=${ACCUMULATE:-"1 4"}
BACKEND=${BACKEND:-cuda}
ARGS=${ARGS:-"--preset sdxl --compute bf16 --frozen bf16 --granularity layer"}
ITERS=${ITERS:-8}
LIMIT=${LIMIT:-200}
BUDGET=${BUDGET:-580}
OUT=${OUT:-scaling}
FEWSTEP=${FEWSTEP:-bin/fewstep}
LADDER=${LADDER:-configs/mini/demo.yaml}
export FEWSTEP_PROGRAM_CACHE=${FEWSTEP_PROGRAM_CACHE:-/tmp/fewstep-programs}

mkdir -p "$OUT" || exit 1
begun=$(date +%s)
most=1
for n in $DEVICES; do [ "$n" -gt "$most" ] && most=$n; done

# measure STEP DEVICES BATCH ACCUMULATE SHARD REDUCE
measure() {
	file="$OUT/$1-$2-$3-$4-$5-$6.json"
	[ -s "$file" ] && return
	left=$((BUDGET - $(date +%s) + begun))
	if [ "$left" -lt 20 ]; then
		echo "scaling: no time for $*" >&2
		return
	fi
	[ "$left" -gt "$LIMIT" ] && left=$LIMIT
	start=$(date +%s)
	# shellcheck disable=SC2086 # arguments are split on purpose
	timeout "$left" "$FEWSTEP" bench -q --backend "$BACKEND" $ARGS --step "$1" --devices "$2" --batch "$3" --accumulate "$4" --shard "$5" --reduce "$6" \
		--iters "$ITERS" >"$file.part" 2>"$OUT/log" && mv "$file.part" "$file"
	status=$?
	echo "scaling: $*: status $status, $(($(date +%s) - start)) s" >&2
	[ "$status" -eq 0 ] || tail -n 3 "$OUT/log" >&2
}

# train DEVICES: starts LADDER's first stage in the background; pid is the process.
train() {
	"$FEWSTEP" run "$LADDER" --dir "$OUT/ladder" --backend "$BACKEND" --devices "$1" --until 32 --launcher none --set train.batch=$((most * PER)) \
		--set train.checkpoint_samples=$((most * PER * 8)) --set train.adam_epsilon=1e-4 >>"$OUT/ladder.log" 2>&1 &
	pid=$!
}

# await COMMAND: waits until the command succeeds, the training ends or the time is over.
await() {
	until "$1" || ended || [ $(($(date +%s) - begun)) -ge "$BUDGET" ]; do sleep 0.2; done
}

ended() { ! grep -qs ') [^Z]' "/proc/$pid/stat"; } # a process that ended stays as Z until it is waited for
saved() { ls "$OUT"/ladder/stages/*/*/checkpoints/* >/dev/null 2>&1; }
further() { [ "$(wc -l <"$OUT/ladder/stats.jsonl")" -gt "$lines" ]; }

survive() {
	[ -s "$OUT/survived" ] && return
	if [ $((BUDGET - $(date +%s) + begun)) -lt 90 ]; then
		echo "scaling: no time for killing and continuing" >&2
		return
	fi
	half=$((most / 2))
	rm -rf "$OUT/ladder" "$OUT/ladder.log"
	train "$most"
	await saved
	kill -9 "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	killed=$?
	lines=$(wc -l <"$OUT/ladder/stats.jsonl")
	train "$most"
	await further
	kill -TERM "$pid" 2>/dev/null
	wait "$pid"
	stopped=$?
	train "$half"
	await ended
	kill -TERM "$pid" 2>/dev/null
	wait "$pid"
	finished=$?
	"$FEWSTEP" check "$OUT/ladder" >>"$OUT/ladder.log" 2>&1
	checked=$?
	told="on $most devices killed at a checkpoint (status $killed), continued and stopped (status $stopped), ended on $half (status $finished), checked (status $checked)"
	echo "scaling: $told" >&2
	if [ "$killed $stopped $finished $checked" = "137 3 0 0" ]; then echo "$told" >"$OUT/survived"; else tail -n 5 "$OUT/ladder.log" >&2; fi
}

# What decides comes first: each step on one device and on all, then what varies.
for step in $STEPS; do
	measure "$step" 1 "$PER" 1 replicated f32
	for n in $DEVICES; do
		[ "$n" -gt 1 ] && measure "$step" "$n" $((n * PER)) 1 replicated f32 && measure "$step" "$n" $((n * PER)) 1 sharded f32
	done
done
for step in $STEPS; do
	for a in $ACCUMULATE; do
		measure "$step" 1 "$PER" "$a" replicated f32
		for n in $DEVICES; do
			[ "$n" -gt 1 ] && measure "$step" "$n" $((n * PER)) "$a" replicated f32
		done
	done
done
for step in $STEPS; do
	[ "$most" -gt 1 ] || break
	measure "$step" "$most" $((most * PER)) 1 replicated bf16
	measure "$step" 1 $((most * PER)) 1 replicated f32
done
[ "$most" -gt 1 ] && survive
rm -f "$OUT"/*.part
cat "$OUT"/*.json >"$OUT/all.jsonl"
"$FEWSTEP" bench --table "$OUT/all.jsonl"
