#!/usr/bin/env bash
# Checks and measures everything that is promised of a GPU, and writes a dated file of results.

usage() {
    cat <<'END'
usage: bench/gpu_check.sh [--quick] [--sanitize] [--only STEP...] [--limit SECONDS]
                          [--logs DIR] [--results DIR]

Runs on a machine with a CUDA device, PyTorch and Triton. A step that needs another package says so
and is skipped; one that fails, or takes too long, does not keep the others from running.

  kernels   every kernel on a small model against the definition, drawn tokens against its draws
  full      the same at SmolLM2-135M's shape; greedy answers to 20 prompts against transformers
  resume    pytest: a training run on a GPU resumes bit for bit
  tests     pytest: the engine on a GPU against the slow reference
  engine    bench.gpu: correctness at full size, rates, first tokens, guesses
  http      bench.gpu_http: a service through HTTP, and swaps while 16 clients stream
  training  bench.training.gpu, few steps
  vllm      bench.peers.vllm_gpu, where vLLM can be imported

  --quick     fewer streams, repeats and swaps
  --sanitize  compute-sanitizer's memcheck and racecheck over `kernels`, and nothing else
  --only      these steps alone
  --limit     seconds for all steps together (300; vLLM has 200 of its own); what is left when they
              are over is not run
  --logs      where the steps' logs go (a new temporary directory)
  --results   where the file of results goes (bench/results)

PYTHON names the interpreter. Exits 1 if a step failed, 2 for wrong options.
END
}

quick=no sanitize=no limit=300 logs="" results="" only=()
while (($#)); do
    case $1 in
    --quick) quick=yes ;;
    --sanitize) sanitize=yes ;;
    --only)
        while (($# > 1)) && [[ $2 != --* ]]; do
            only+=("$2")
            shift
        done
        ;;
    --limit | --logs | --results)
        if (($# < 2)); then
            echo "gpu_check.sh: $1 needs a value" >&2
            exit 2
        fi
        declare "${1#--}=$2"
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        echo "gpu_check.sh: unknown option $1; --help says what there is" >&2
        exit 2
        ;;
    esac
    shift
done
if ! [[ $limit =~ ^[0-9]+$ ]]; then
    echo "gpu_check.sh: --limit is a number of seconds, not $limit" >&2
    exit 2
fi
for step in "${only[@]}"; do
    if [[ " kernels full resume tests engine http training vllm " != *" $step "* ]]; then
        echo "gpu_check.sh: there is no step $step; --help says which there are" >&2
        exit 2
    fi
done

set -u
[[ -n $results ]] && mkdir -p "$results" && results=$(realpath "$results")
[[ -n $logs ]] && mkdir -p "$logs" && logs=$(realpath "$logs")
cd "$(dirname "$0")/.." || exit 2
logs=${logs:-$(mktemp -d)}
results=${results:-bench/results}
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
steps=$logs/steps.tsv
: >"$steps"
failed=() written=()

# note STEP OUTCOME SECONDS
note() {
    printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$steps"
    printf '[%s: %s, %s s]\n' "$1" "$2" "$3"
}

# Packages among the arguments that cannot be imported.
missing() {
    "$PYTHON" - "$@" <<'END'
import importlib.util
import sys

print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
END
}

# step NAME SECONDS "PACKAGES IT NEEDS" COMMAND...
step() {
    local name=$1 seconds=$2 needs=$3 lacking began status took left
    shift 3
    if ((${#only[@]})) && [[ " ${only[*]} " != *" $name "* ]]; then
        return
    fi
    # shellcheck disable=SC2086
    lacking=$(missing torch triton $needs)
    if [[ -n $lacking ]]; then
        note "$name" "skipped: needs $lacking" 0
        return
    fi
    left=$((limit - SECONDS))
    if [[ $name != vllm && $left -lt $seconds ]]; then
        seconds=$left
    fi
    if ((seconds < 5)); then
        note "$name" "not run: no time left" 0
        failed+=("$name (no time left)")
        return
    fi
    began=$SECONDS
    timeout -k 5 "$seconds" "$@" 2>&1 | tee "$logs/$name.log"
    status=${PIPESTATUS[0]}
    written+=("$logs/$name.log")
    took=$((SECONDS - began))
    if ((status == 0)); then
        note "$name" ok "$took"
    elif ((status == 124 || status == 137)); then
        note "$name" "took longer than $seconds s" "$took"
        failed+=("$name (took longer than $seconds s)")
    elif lacking=$(sed -n "s/^\(E *\)\{0,1\}ModuleNotFoundError: No module named '\([^']*\)'.*/\2/p" \
        "$logs/$name.log" | tail -n 1) && [[ -n $lacking && -n $(missing "${lacking%%.*}") ]]; then
        note "$name" "skipped: needs $lacking" "$took"
    else
        note "$name" "failed with status $status" "$took"
        failed+=("$name (status $status)")
    fi
}

sanitizer() {
    command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null
}

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu_check.sh: $PYTHON has no PyTorch that sees a CUDA device" >&2
    exit 1
fi
export PYTHONUNBUFFERED=1
packages="safetensors tokenizers"
if [[ $sanitize == yes ]]; then
    tool=$(sanitizer)
    if [[ -z $tool ]]; then
        echo "gpu_check.sh: compute-sanitizer is not installed (it comes with the CUDA toolkit)" >&2
        exit 1
    fi
    only=()
    limit=$((limit > 600 ? limit : 600))
    for check in memcheck racecheck; do
        step "$check" 290 "$packages" "$tool" --tool "$check" --error-exitcode 9 \
            "$PYTHON" -m bench.gpu_kernels_once
    done
else
    streams=(1 8 32 128 256) repeats=2 clients=(1 32 256) swaps=2 training_steps=10
    sides=(ours plain huggingface)
    if [[ $quick == yes ]]; then
        streams=(1 32) repeats=1 clients=(1 32) swaps=1 training_steps=6 sides=(ours plain)
    fi
    step kernels 60 "$packages" "$PYTHON" -m bench.gpu_kernels_once
    step engine 120 "$packages" \
        "$PYTHON" -m bench.gpu --measure --streams "${streams[@]}" --repeats "$repeats" \
        --only check first_token rates guesses
    step http 90 "$packages fastapi pydantic pydantic_settings uvicorn httpx prometheus_client" \
        "$PYTHON" -m bench.gpu_http --clients "${clients[@]}" --repeats "$repeats" --swaps "$swaps"
    step full 60 "$packages transformers" "$PYTHON" -m bench.gpu_kernels_once --full
    step resume 60 "$packages pytest hypothesis yaml" \
        "$PYTHON" -m pytest -q -p no:cacheprovider tests/trainer/run/test_assemble.py -k on_a_gpu
    step tests 45 "$packages pytest hypothesis" \
        "$PYTHON" -m pytest -q -p no:cacheprovider tests/service/engine/test_on_a_gpu.py
    step training 75 "$packages yaml" \
        "$PYTHON" -m bench.training.gpu --sides "${sides[@]}" --steps "$training_steps"
    step vllm 200 vllm "$PYTHON" -m bench.peers.vllm_gpu \
        --streams "${streams[@]}" --repeats "$repeats"
fi

if ((${#written[@]})); then
    "$PYTHON" -m bench.gpu_report --steps "$steps" --results "$results" "${written[@]}" ||
        failed+=("the file of results")
fi
echo "logs: $logs"
if ((${#failed[@]})); then
    printf 'gpu_check.sh: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
