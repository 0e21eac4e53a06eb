# lrt_jax with pinned versions. On a TPU VM the container needs the host's devices and network:
#
#     docker build --tag lrt_jax .
#     docker run --rm --privileged --net=host lrt_jax \
#         lrt_jax.main --config=configs/imagereward.py:7b --workdir=gs://BUCKET/run
#
# On any other machine the same image trains the built-in model:
#
#     docker run --rm --volume "$PWD/runs:/lrt_jax/runs" lrt_jax
FROM python:3.11.13-slim-bookworm

WORKDIR /lrt_jax

# Libraries first: they change less often than the code, and are most of the image.
COPY launch/requirements.txt launch/requirements.txt
RUN pip install --no-cache-dir --disable-pip-version-check --requirement launch/requirements.txt

COPY setup.py pyproject.toml README.md LICENSE ./
COPY configs configs
COPY lrt_jax lrt_jax
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --editable .

# SIGTERM (docker stop) has training write a checkpoint, which takes longer than Docker's 10 s: give
# `docker stop --time=900`.
ENTRYPOINT ["python", "-m"]
CMD ["lrt_jax.main", "--config=configs/imagereward.py"]
