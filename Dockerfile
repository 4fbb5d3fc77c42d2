# dqlab with everything that its tasks need; runs and datasets live outside, in /work and /data.
#     docker build -t dqlab .                                       for CPUs
#     docker build -t dqlab:cuda --build-arg TORCH=cuda .           for NVIDIA's GPUs
#     docker run --rm -v "$PWD:/work" -v "$HOME/.d4rl/datasets:/data" dqlab train --gin gin/quickstart.gin
#     docker run --rm --gpus all ... dqlab:cuda ...                 with NVIDIA's container toolkit on the host
FROM python:3.11-slim-bookworm

# a C++ compiler for compiled updates, OpenGL without a display for videos
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libegl1 libgl1-mesa-dri libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

# PyPI's PyTorch brings its CUDA libraries along, 3 GB of them; the host's driver is all that is needed beside
ARG TORCH=cpu
RUN test "$TORCH" = cuda || pip install --no-cache-dir "torch>=2.6,<2.14" --index-url https://download.pytorch.org/whl/cpu

COPY . /src
RUN pip install --no-cache-dir "/src[robotics,ogbench,minari,video,collect,export,ray,slurm]"

# for whatever number a user is given by --user
RUN useradd --create-home dqlab && mkdir -p --mode 1777 /work /data
USER dqlab
ENV D4RL_DATASET_DIR=/data
WORKDIR /work
ENTRYPOINT ["dqlab"]
CMD ["doctor"]
