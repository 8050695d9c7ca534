# The server on an NVIDIA GPU. CUDA comes with the wheels of jax; the machine needs the driver and NVIDIA's runtime:
#
#   docker build -f launch/docker/cuda.Dockerfile -t jaxdino-serve .
#   docker run --read-only --tmpfs /tmp -p 8000:8000 -v RUN:/model:ro --gpus all jaxdino-serve
#
# The versions of all dependencies are those in launch/docker/constraints.txt. For others, write constraints.txt beside
# pyproject.toml, such as `pip freeze` of where the model was trained, and add --build-arg CONSTRAINTS=constraints.txt.
FROM python:3.12.11-slim-bookworm AS build
ARG CONSTRAINTS=launch/docker/constraints.txt
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
WORKDIR /source
COPY . .
RUN python -m venv /opt/jaxdino && \
    /opt/jaxdino/bin/pip install --constraint "$CONSTRAINTS" ".[serve,cuda13]"

FROM python:3.12.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin jaxdino
COPY --from=build /opt/jaxdino /opt/jaxdino
ENV PATH=/opt/jaxdino/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    XLA_PYTHON_CLIENT_PREALLOCATE=false
USER 10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["jaxdino", "serve"]
CMD ["--workdir=/model", "--host=0.0.0.0", "--port=8000"]
