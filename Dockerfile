# vpns in a container: the wheel of this tree on Python's image, torch with the CUDA it was built for.
#   docker build -t vpns .
#   docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" vpns fit --config quickstart
FROM python:3.12-slim AS wheel
WORKDIR /build
COPY setup.py setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
COPY src src
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=wheel /wheels /wheels
# what --network.compile compiles with; Debian keeps no older versions to pin
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "$(ls /wheels/*.whl)[export,timm]" \
    && rm -rf /wheels
# threads that wait do not spin: cores are often shared
ENV OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 HOME=/work MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["vpns"]
CMD ["--help"]
