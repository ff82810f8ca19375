# Forewarn as a container image: docs/deploy.md tells how to run it.
#
#     docker build --tag forewarn .
#
# The base is named by its tag, for its digest changes with every security fix: to have the same image again, hand in
# the digest that you have tested, --build-arg BASE=python:3.11-slim-bookworm@sha256:... Everything else is pinned by hash.
# Any other base with Python 3.11 and its venv module will do.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# The same files give the same bytes: no times in the wheel, and byte code that hangs on its source, not on times and chance.
ENV SOURCE_DATE_EPOCH=315532800 PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/run.txt requirements/build.txt requirements/
# pip stays behind: where Forewarn runs, nothing can be installed. Where packages come from a mirror of yours, its address
# and password are handed in as a secret, which no layer keeps: --secret id=pip.conf,src=$HOME/.config/pip/pip.conf
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m venv /tools \
    && python3 -m venv --without-pip /opt/forewarn \
    && /tools/bin/pip install --quiet --no-compile --require-hashes --requirement requirements/build.txt \
    && /tools/bin/pip --python /opt/forewarn/bin/python install --quiet --no-compile --require-hashes --only-binary :all: \
       --requirement requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
# Byte code of Python's own modules too: the usual base has none, a read-only root can keep none, and so every start and
# every health check would compile them anew (a second, and 5 MiB of memory that stay).
RUN /tools/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /wheel . \
    && /tools/bin/pip --python /opt/forewarn/bin/python install --quiet --no-deps --no-index --no-compile /wheel/*.whl \
    && /opt/forewarn/bin/python -X pycache_prefix=/opt/forewarn/bytecode -m compileall -q -j 0 \
       --invalidation-mode unchecked-hash \
       -x '/(tests?|idlelib|lib2to3|ensurepip|turtledemo|tkinter|dist-packages)/|^/usr/.*/site-packages/' \
       "$(/opt/forewarn/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" /opt/forewarn/lib
COPY deploy/image/healthcheck.py /opt/forewarn/lib/
# Writable for its group too, so that any user of group 0 can be taken in place of 65532.
RUN mkdir -p /state/forewarn && chmod 0775 /state/forewarn && chown 65532:0 /state/forewarn

FROM ${BASE}
COPY --from=build /opt/forewarn /opt/forewarn
COPY --from=build /state /var/lib
ENV PATH=/opt/forewarn/bin:$PATH PYTHONUNBUFFERED=1 PYTHONPYCACHEPREFIX=/opt/forewarn/bytecode \
    FOREWARN_WEB_LISTEN_ADDRESS=:9386 FOREWARN_STATE_FILE=/var/lib/forewarn/state.json
USER 65532:65532
VOLUME /var/lib/forewarn
EXPOSE 9386
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 \
    CMD ["/opt/forewarn/bin/python", "-S", "/opt/forewarn/lib/healthcheck.py"]
ENTRYPOINT ["forewarn"]
CMD ["run"]
LABEL org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.title="Forewarn" \
      org.opencontainers.image.description="A sidecar that stands beside a job server and warns before it fails" \
      org.opencontainers.image.licenses="Apache-2.0"
