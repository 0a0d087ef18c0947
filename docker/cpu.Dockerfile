# defocus on a processor, from the root of a checkout: docker build -f docker/cpu.Dockerfile -t defocus .
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# Comma-separated, for example cpu,formats.
ARG EXTRAS=cpu
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/defocus-*.whl)[${EXTRAS}]"
# Not root: acquisition folders are only read; the output folder must be writable for this user, or for docker's --user.
RUN useradd --create-home defocus
USER defocus
ENV DEFOCUS_CACHE=/tmp/defocus
ENTRYPOINT ["defocus"]
CMD ["doctor"]
