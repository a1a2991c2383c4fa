# signsclf serve on a CPU: the light install with the extra serve, no compiler, no torch.
#
#     docker build -t signsclf .
#     docker run --read-only -p 127.0.0.1:8080:8080 -e SIGNSCLF_OPEN=1 -v "$PWD/models/pets:/model:ro" -e SIGNSCLF_MODEL=/model signsclf
#
# Without $SIGNSCLF_MODEL it serves the ready-made model. Without $SIGNSCLF_TOKEN or SIGNSCLF_OPEN=1 it refuses to start.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY models/gtsrb-signnet models/gtsrb-signnet
COPY signsclf signsclf
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.13-slim
COPY --from=build /venv /venv
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 SIGNSCLF_HOST=0.0.0.0 PORT=8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + (os.environ.get('AIP_HTTP_PORT') or os.environ['PORT']) + '/health/live', timeout=2)"]
STOPSIGNAL SIGTERM
# SageMaker starts an image with the argument "serve".
ENTRYPOINT ["signsclf"]
CMD ["serve"]
