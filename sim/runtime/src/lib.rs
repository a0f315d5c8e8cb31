//! A simulated CUDA runtime: the documented functions of `libcudart` that PyTorch calls, on top of
//! the documented functions of the driver, which is found as `libcuda.so.1`. Memory, streams and
//! graphs are the driver's; what a runtime adds is here: a current device and a last error for
//! each thread, primary contexts, and the registration of kernels.

// Each entry point is documented by NVIDIA, under its name.
#![allow(non_snake_case)]

mod answer;
mod copy;
mod device;
mod driver;
mod event;
mod graph;
mod kernel;
mod memory;
mod name;
mod nvml;
mod pool;
mod properties;
mod refused;
mod stream;
