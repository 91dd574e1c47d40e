#!/usr/bin/env bash
# An image classified, in the shell and in Python; nothing is downloaded.
set -euo pipefail

hardnet-suite samples
hardnet-suite predict bus.jpg --model hardnet39ds --weights tiny_imagenet10 --out found | tee printed
grep -q "school bus" printed
test -s found/predictions.jsonl

cat > classify.py <<'PYTHON'
from hardnet_suite import predict

(prediction,) = predict("hardnet39ds", "bus.jpg", weights="tiny_imagenet10", top=3)
for name, score in zip(prediction.names, prediction.scores):
    print(f"{name:20} {100 * score:5.1f} %")
prediction.draw().save("guesses.png")
assert prediction.names[0] == "school bus"
PYTHON
python classify.py
test -s guesses.png
