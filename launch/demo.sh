#!/usr/bin/env bash
# The demo, from nothing to a table: a small Qwen2.5-VL learns to read handwritten digits in several images, then four
# ways of reinforcement learning go on from the same checkpoint, and what came out is exported, evaluated and asked.
#
#   bash launch/demo.sh            goes on where demo/ ends
#   bash launch/demo.sh --fresh    starts anew
#   bash launch/demo.sh qwen3_vl   with a small Qwen3-VL
#
# PERL_JAX_DEMO_ARGS holds flags for all four runs, parted by spaces, such as "--config.eval.limit=20"; not total_steps
# or warmup.steps, which tell the runs apart.
set -euo pipefail
cd -- "$(dirname -- "$0")/.." >/dev/null

family=qwen2_5_vl
for argument; do
    case $argument in
    --fresh) rm -rf demo ;;
    qwen2_5_vl | qwen3_vl) family=$argument ;;
    *)
        echo "usage: bash launch/demo.sh [--fresh] [qwen2_5_vl | qwen3_vl]" >&2
        exit 1
        ;;
    esac
done

# What runs under other settings must not go on from what is there.
mkdir -p demo
settings="$family ${PERL_JAX_DEMO_ARGS:-} $(cat configs/base.py configs/demo.py | cksum)"
if [ -f demo/settings ] && [ "$(cat demo/settings)" != "$settings" ]; then
    echo "error: demo/ was made with other settings; start anew with: bash launch/demo.sh --fresh" >&2
    exit 1
fi
echo "$settings" >demo/settings

source launch/venv.sh .venv-demo requirements.txt

export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=$PWD/.cache/jax
read -r -a more <<<"${PERL_JAX_DEMO_ARGS:-}"

stage() { printf '\n== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

train() { # ARM WORKDIR [flags]
    python -m perl_jax.train --config="configs/demo.py:$family,$1" --workdir="demo/$2" "${@:3}" ${more[@]+"${more[@]}"}
}

export_once() { # WORKDIR DIRECTORY: from the last checkpoint
    [ -d "demo/$2" ] || python -m perl_jax.export --workdir="demo/$1" --out="demo/$2"
}

stage "Warm-up: from nothing, supervised"
train warm-up warm-up
export_once warm-up warm-up/model

for arm in grpo grpo-shuffled perl recommended; do
    stage "$arm, from the warm-up"
    train "$arm" "$arm" --config.model=demo/warm-up/model --config.data.directory=demo/warm-up/data
done

stage "Held-out questions again: drawn answers, in all orders of the images, beside a control"
for arm in warm-up grpo grpo-shuffled perl recommended; do
    export_once $arm $arm/model
    python -m perl_jax.evaluate --model=demo/$arm/model --benchmark=records --data=demo/warm-up/data \
        --out=demo/$arm/results --permute=5 --temperature=1 --max_new_tokens=64 --batch=100 --dtype=float32 >/dev/null
done

stage "Tables and page"
names=(warm-up GRPO "GRPO shuffled" PeRL "PeRL recommended")
directories=(warm-up grpo grpo-shuffled perl recommended) pages=()
for i in "${!names[@]}"; do
    pages+=(--workdir="${names[i]}=demo/${directories[i]}" --results="${names[i]}=demo/${directories[i]}/results")
done
python -m perl_jax.report "${pages[@]}" --out=demo/report.html

stage "Three held-out questions to the exported model"
python - <<'PYTHON'
from pathlib import Path

from perl_jax import permute, records

split = records.open_split("demo/warm-up/data", "eval")
for number in range(3):
    sample = permute.render(split[number])
    folder = Path("demo/questions", str(number + 1))
    folder.mkdir(parents=True, exist_ok=True)
    for place, image in enumerate(sample["images"], start=1):
        (folder / f"image{place}.png").write_bytes(image)
    (folder / "question.txt").write_text(sample["question"].replace(permute.MARKER, "") + "\n")
    (folder / "answer.txt").write_text(sample["answer"] + "\n")
PYTHON
for folder in demo/questions/*/; do
    images=("$folder"image*.png)
    echo
    echo "${images[*]}: $(cat "$folder/question.txt")  [$(cat "$folder/answer.txt")]"
    python -m perl_jax.sample --model=demo/recommended/model --prompt="$(cat "$folder/question.txt")" "${images[@]/#/--image=}"
done

stage "Done: the page is demo/report.html, the model is in demo/recommended/model"
