# A server of the models in the package: docs/serving.md.
#   docker build -t hardnet-suite .                                                    on the CPU
#   docker build -t hardnet-suite --build-arg TORCH_INDEX=https://pypi.org/simple .    with CUDA
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE hardnet_suite_mmcv.pth _hardnet_suite_mmcv.py ./
COPY hardnet_suite hardnet_suite
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt /tmp/constraints.txt
COPY --from=wheel /wheels /tmp/wheels
# opencv-python, which mmengine asks for, needs the system's libGL; the headless build is the same without windows
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" -c /tmp/constraints.txt torch torchvision \
    && pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /tmp/wheels/*.whl)[serve]" \
    && pip uninstall --yes opencv-python \
    && pip install --no-cache-dir --no-deps -c /tmp/constraints.txt --force-reinstall opencv-python-headless \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && hardnet-suite doctor

ENV HARDNET_WEIGHTS_DIR=/weights
RUN useradd --create-home --uid 10001 hardnet && mkdir /weights && chown hardnet /weights
VOLUME /weights
USER hardnet
WORKDIR /home/hardnet
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["hardnet-suite"]
CMD ["serve", "--model", "fchardnet70:camvid", "--model", "cells=ssd320_hardnet39ds:bccd", "--host", "0.0.0.0"]
