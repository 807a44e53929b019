# rankr-sync as a container: `docker run IMAGE` is the daemon, `docker run IMAGE backfill` any other command.
# Two stages on the same base: the venv is made in the first and copied, with nothing else, into the second.

FROM python:3.13-slim AS builder

WORKDIR /build

# Every dependency once, checked against its hash; wheels only, so that nothing needs a compiler.
COPY requirements.lock requirements-build.lock ./
RUN pip download --no-cache-dir --disable-pip-version-check --quiet --only-binary :all: \
    --require-hashes --dest wheels -r requirements-build.lock

# Neither venv has a pip of its own: the base's works on both from outside.
RUN python -m venv --without-pip /opt/rankr-sync \
    && pip --python /opt/rankr-sync/bin/python install --no-cache-dir --disable-pip-version-check --quiet \
        --no-index --find-links wheels --require-hashes -r requirements.lock \
    && python -m venv build-venv \
    && build-venv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet \
        --no-index --find-links wheels --require-hashes -r requirements-build.lock

# The sources last: a change in them costs only these seconds.
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY src src
RUN build-venv/bin/pip wheel --no-cache-dir --disable-pip-version-check --quiet --no-deps --no-build-isolation \
        --wheel-dir dist . \
    && pip --python /opt/rankr-sync/bin/python install --no-cache-dir --disable-pip-version-check --quiet \
        --no-index --no-deps dist/*.whl


FROM python:3.13-slim

# A container that runs for years needs no installer: the base's pip goes. The user's number is fixed, so that
# whoever prepares a volume or a secret knows whom to give it to.
RUN site=$(python -c 'import os, pip; print(os.path.dirname(os.path.dirname(pip.__file__)))') \
    && rm -rf "$site"/pip "$site"/pip-*.dist-info /usr/local/bin/pip* /usr/bin/pip* \
    && groupadd --gid 10001 rankr \
    && useradd --no-log-init --uid 10001 --gid rankr --no-create-home --home-dir /data --shell /usr/sbin/nologin rankr \
    && install -d -o rankr -g rankr -m 0700 /data

COPY --from=builder /opt/rankr-sync /opt/rankr-sync

ENV PATH="/opt/rankr-sync/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RANKR_SYNC_DATABASE__URL=sqlite:////data/rankr.db \
    RANKR_SYNC_LOG__FORMAT=json

USER 10001:10001
WORKDIR /data
VOLUME ["/data"]

# The status page, /healthz, /readyz and /metrics. Unless RANKR_SYNC_HTTP__LISTEN=0.0.0.0:8700 and a password or token
# are set, they are reached from within the container only.
EXPOSE 8700

# Healthy: the daemon's loop and its schedule are alive. An API that is down, a token that is refused or a database that
# is gone is not asked about on purpose: no restart mends it; alert on /readyz or /metrics instead.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 \
    CMD ["python", "-m", "rankr_sync.service.probe"]

# In exec form: the program is process 1 and gets SIGTERM itself, finishes the page in hand and exits 0.
ENTRYPOINT ["rankr-sync"]
CMD ["run"]

ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="rankr-sync" \
      org.opencontainers.image.description="Mirrors the HighLevel CRM into a SQL store, and keeps the mirror fresh." \
      org.opencontainers.image.source="https://github.com/rankr/rankr-sync" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
