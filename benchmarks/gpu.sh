#!/usr/bin/env bash
# Every row that needs a GPU, in parts:
#   bash benchmarks/gpu.sh check|speed|darts|compiled|gdas|retrain DATA OUT
#   bash benchmarks/gpu.sh tabulated|rank DATA OUT TABLE
# DATA holds cifar-10-batches-py; OUT takes logs and tables; TABLE is one of NAS-Bench-201. A summary comes last.
set -euo pipefail
part=${1:?check, speed, darts, compiled, gdas, retrain, tabulated or rank}; data=${2:?folder of CIFAR-10}; out=${3:?folder for the results}
table=${4:+$(realpath "$4")}
mkdir -p "$out"
cd "$(dirname "$0")/.."
search=(--data.root "$data" --trainer.precision bf16-mixed --trainer.check_val_every_n_epoch 10
  --trainer.default_root_dir "$out/logs" --trainer.enable_progress_bar false)

timed() { # name, command...: the log goes to a file, the wall time to the table
  local name=$1; shift
  SECONDS=0
  "$@" >"$out/$name.log" 2>&1 || { tail -20 "$out/$name.log"; return 1; }
  echo "$name: $SECONDS s, start-up included" | tee -a "$out/times.txt"
}

case $part in
  check)
    timed check python3 -m pytest -q -p no:cacheprovider tests/test_cuda.py
    tail -3 "$out/check.log" ;;
  speed)
    timed search_speed python3 -m benchmarks.search_speed --json "$out/search_speed.json" --markdown "$out/search_speed.md"
    timed retrain_speed python3 -m benchmarks.retrain_speed --json "$out/retrain_speed.json" --markdown "$out/retrain_speed.md"
    timed levers python3 -m benchmarks.levers --markdown "$out/levers.md"
    timed levers_gdas python3 -m benchmarks.levers --strategy GDAS --changes "launched one by one" "launched one by one, only what was drawn" --markdown "$out/levers_gdas.md"
    timed scaling python3 -m benchmarks.scaling --markdown "$out/scaling.md"
    cat "$out"/{search_speed,retrain_speed,levers,levers_gdas,scaling}.md ;;
  darts)
    timed darts python3 train.py --config configs/darts.yaml "${search[@]}"
    tail -12 "$out/darts.log" ;;
  compiled)
    timed compiled python3 train.py --config configs/darts.yaml "${search[@]}" --model.compile true
    tail -12 "$out/compiled.log" ;;
  gdas)
    timed gdas python3 train.py --config configs/gdas.yaml "${search[@]}"
    tail -12 "$out/gdas.log" ;;
  retrain)
    timed retrain python3 derive.py --genotype 6111 --config configs/retrain.yaml --data.name cifar10 \
      --data.root "$data" --trainer.precision bf16-mixed --trainer.default_root_dir "$out/logs" \
      --trainer.enable_progress_bar false
    tail -3 "$out/retrain.log" ;;
  tabulated)
    # cut off, it goes on where it was; float32, as the published trainings
    : "${table:?table of NAS-Bench-201}"
    for cell in 6111 3457 13412; do # rank 1, 94.37 %; rank 7,813, 90.75 %; rank 13,999, 79.81 %
      timed "tabulated_$cell" python3 derive.py --genotype "$cell" --config configs/retrain.yaml --data.name cifar10 \
        --data.root "$data" --table "$table" --trainer.default_root_dir "$out/logs" \
        --trainer.enable_progress_bar false --resume
    done
    grep -A1 "^Test accuracy" "$out"/tabulated_*.log ;;
  rank)
    # a short training, then all 15,625 cells on 2,048 images
    timed rank_search python3 train.py --config configs/fairnas.yaml "${search[@]}" --trainer.max_epochs 10 --model.recalibration_images 0 \
      --trainer.default_root_dir "$out/rank_logs"
    checkpoint=$(find "$out/rank_logs" -name last.ckpt | sort -V | tail -1)
    timed rank python3 -m supernet.rank "$checkpoint" --root "$data" --out "$out/rank" --precision bf16-mixed \
      --batch_size 2048 --table "${table:?table of NAS-Bench-201}"
    tail -30 "$out/rank.log" ;;
  *) echo "no such part: $part" >&2; exit 2 ;;
esac
cat "$out/times.txt"
