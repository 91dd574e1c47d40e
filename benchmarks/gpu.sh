#!/bin/sh
# Everything that needs a CUDA GPU, in less than nine minutes: benchmarks/gpu.sh FOLDER
# writes FOLDER/gpu.json and FOLDER/gpu.md. With --dry-run on the CPU, at tiny sizes.
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
