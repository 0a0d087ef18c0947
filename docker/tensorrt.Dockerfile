# defocus on NVIDIA's TensorRT image, from the root of a checkout. The tag must bring TensorRT 11 and Python 3.11 or newer:
# docker build -f docker/tensorrt.Dockerfile --build-arg TENSORRT=nvcr.io/nvidia/tensorrt:TAG-py3 -t defocus-tensorrt .
ARG TENSORRT
FROM ${TENSORRT}
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# Not the extra `tensorrt`: the image has TensorRT and its Python package already.
RUN pip install --no-cache-dir /wheels/defocus-*.whl "onnxruntime>=1.20" "cuda-bindings>=13"
# Built plans are kept in cache: mount a volume, or each new container builds them again. Made here, so that a new volume
# belongs to this user.
RUN useradd --create-home defocus && install --directory --owner defocus /home/defocus/cache
WORKDIR /home/defocus
USER defocus
ENV DEFOCUS_CACHE=/home/defocus/cache
ENTRYPOINT ["defocus"]
CMD ["doctor"]
