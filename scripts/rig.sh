# Environments and the simulated CUDA runtime and driver, for the scripts that source this.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

# An environment of its own for a list of packages, made anew when the list changes.
environment() { # NAME LIST
    local into=$root/.venv-$1
    if ! cmp -s "$2" "$into/installed"; then
        echo "installing what ${2#"$root/"} lists" >&2
        python3 -m venv --clear "$into"
        "$into/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$2"
        cp "$2" "$into/installed"
    fi
}

# The simulated libraries under the names by which they are looked for; in `folder` then.
simulated_cuda() { # TORCH_VERSION
    local major=13 built=$target/debug
    cargo build --quiet --locked -p forebay-sim-cuda -p forebay-sim-cudart
    if [ "${1%%.*}.$(echo "$1" | cut -d. -f2)" = 2.6 ]; then
        major=12 built=$target/cuda-12/debug
        cargo build --quiet --locked -p forebay-sim-cudart --features cuda-12 --target-dir "$target/cuda-12"
    fi
    folder=$root/build/torch/$1
    mkdir -p "$folder"
    ln -sf "$target/debug/libsim_cuda.so" "$folder/libcuda.so.1"
    ln -sf "$built/libsim_cudart.so" "$folder/libcudart.so.$major"
    # PyTorch asks it before it maps pages.
    ln -sf "$built/libsim_cudart.so" "$folder/libnvidia-ml.so.1"
    runtime=$folder/libcudart.so.$major
}
