#!/usr/bin/env bash
# What a machine with a GPU can tell of this package, in one command; benchmarks/device.md explains it.
set -uo pipefail

usage() {
    cat << 'END'
bash benchmarks/device.sh [--small] [PART ...]

Run at the root of the repository, on a machine with a GPU; needs no network and at most eight minutes.
Each part has a time limit of its own, and one that fails does not keep the others from running.

  wheels     install what is in the folder $WHEELS (default: .whl) into $SITE, for this and later calls
  pipeline   a whole run on 512 images with Ray and the GPU, beside one on processors; killed and gone on
  speed      embed, k-NN, TEMI and ResNet-18 beside the card's bandwidth and matrix rate
  encoder    an encoder trained on the images in $DATA/train and $DATA/test, for as many epochs as fit

--small      the same code on tiny sizes, also without a GPU: shows that all of it runs

$OUT: folder for figures (JSON), embeddings and the log. $PYTHON: the interpreter (default: python3).
Exit status: 0, or 1 if a part failed or ran out of time, or 2 for a wrong call or no GPU.
END
}

small="" parts=()
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit 0 ;;
        --small) small=--small ;;
        wheels | pipeline | speed | encoder) parts+=("$argument") ;;
        *) echo "device.sh: unknown part $argument" >&2; usage >&2; exit 2 ;;
    esac
done
[[ ${#parts[@]} -gt 0 ]] || parts=(wheels pipeline speed encoder)
[[ -f benchmarks/gpu.py ]] || { echo "device.sh: run it at the root of the repository" >&2; exit 2; }

python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${OUT:-$work/out}
mkdir -p "$out"
out=$(cd "$out" && pwd) log=$out/device.log
: > "$log"
site=${SITE:-${TMPDIR:-/tmp}/elfs-ray-site}
export PYTHONPATH=$site:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

# Seconds in all, and at most for each part. A machine to try it on may be slow.
if [[ $small ]]; then
    total=2400 most_wheels=300 most_pipeline=1500 most_speed=600 most_encoder=300
else
    total=470 most_wheels=60 most_pipeline=280 most_speed=230 most_encoder=400
fi

declare -A begins ends took said

# run PART COMMAND...: within the part's limit and what is left of all; what it prints goes to the log.
run() {
    local part=$1 most=most_$1 started=$SECONDS left=$((total - SECONDS)) limit
    shift
    limit=$((left < ${!most} ? left : ${!most}))
    if ((limit < 20)); then
        said[$part]="not begun: no time left"
        return
    fi
    echo "$part: at most $limit s ..."
    begins[$part]=$(stat --format=%s "$log")
    echo "== $part" >> "$log"
    timeout --kill-after=10 "$limit" "$@" >> "$log" 2>&1
    case $? in
        0) said[$part]=ok ;;
        124 | 137) said[$part]="stopped at $limit s" ;;
        *) said[$part]=failed ;;
    esac
    ends[$part]=$(stat --format=%s "$log") took[$part]=$((SECONDS - started))
}

# printed PART: what it wrote to the log.
printed() {
    tail --bytes=+$((${begins[$1]} + 1)) "$log" | head --bytes=$((${ends[$1]} - ${begins[$1]}))
}

has() {
    "$python" -c "import $1" 2>> "$log"
}

wheels() {
    local folder=${WHEELS:-.whl} found
    mapfile -t found < <(find "$folder" -type f -name '*.whl' 2> /dev/null | sort)
    if [[ ${#found[@]} -eq 0 ]]; then
        said[wheels]="skipped: no wheels in $folder"
        return
    fi
    run wheels "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$site" "${found[@]}"
}

pipeline() {
    if ! has ray; then
        said[pipeline]="skipped: Ray cannot be imported; carry its wheels (benchmarks/device.md)"
        return
    fi
    export ELFS_RAY_GPU_FIGURES=$out/pipeline.json
    [[ $cuda ]] || export ELFS_RAY_GPU_TESTS=cpu
    run pipeline "$python" -m pytest tests/gpu -m gpu -p no:cacheprovider --durations=8
}

speed() {
    run speed "$python" benchmarks/gpu.py $small --json "$out/speed.json"
}

encoder() {
    if [[ -z ${DATA:-} || ! -d $DATA/train || ! -d $DATA/test ]]; then
        said[encoder]="skipped: \$DATA names no folder with train and test"
        return
    fi
    local seconds=$((total - SECONDS - 45)) tiny=() # what reading, embedding and writing take
    if ((seconds < 30)); then
        said[encoder]="not begun: no time left"
        return
    fi
    [[ $small ]] && tiny=(--rows 128 --side 16 --batch-size 32 --epochs 2 --dims 16)
    run encoder "$python" benchmarks/self_supervised.py --train "$DATA/train" --test "$DATA/test" --out "$out" \
        --checkpoint "$work/encoder.pt" --seconds $((seconds < most_encoder ? seconds : most_encoder)) "${tiny[@]}"
}

cuda=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")' 2>> "$log")
if [[ -z $cuda && -z $small ]]; then
    echo "device.sh: $python sees no CUDA device; --small tries the same without one" >&2
    exit 2
fi
echo "${cuda:-no GPU}, $("$python" --version)"
for part in "${parts[@]}"; do
    "$part"
done

# The tables last: of what a machine sends back, the end is what one sees.
status=0
for part in "${parts[@]}"; do
    case ${said[$part]} in
        failed | stopped*) printf '\n== %s: %s; the end of what it printed:\n' "$part" "${said[$part]}"
            printed "$part" | tail --lines=40; status=1 ;;
    esac
done
[[ -f $out/pipeline.json ]] && printf '\n== pipeline\n' && cat "$out/pipeline.json" && echo
[[ -n ${begins[speed]:-} ]] && printf '\n== speed\n' && printed speed | grep '^|'
[[ -n ${begins[encoder]:-} ]] && printf '\n== encoder\n' && printed encoder | tail --lines=4
printf '\n| part | seconds | |\n|---|---:|---|\n'
for part in "${parts[@]}"; do
    printf '| %s | %s | %s |\n' "$part" "${took[$part]:-}" "${said[$part]}"
    [[ ${said[$part]} == not\ begun* ]] && status=1
done
exit $status
