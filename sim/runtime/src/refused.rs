//! What PyTorch links to and this does not do: refused, and named on the standard error with
//! `SIM_CUDART_LOG=1`.

use crate::answer::answer;
use crate::driver::{Code, NOT_SUPPORTED};

fn refuse(name: &str) -> Code {
    if std::env::var_os("SIM_CUDART_LOG").is_some() {
        eprintln!("sim_cudart: {name} is not supported");
    }
    answer(|_| Err(NOT_SUPPORTED))
}

macro_rules! refused {
    ($($name:ident)*) => {
        $(
            /// Refused.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> Code {
                refuse(stringify!($name))
            }
        )*
    };
}

refused! {
    cudaGetSymbolAddress cudaGraphAddNode cudaGraphConditionalHandleCreate cudaGraphDebugDotPrint
    cudaGraphNodeGetDependencies cudaIpcCloseMemHandle cudaIpcGetEventHandle cudaIpcGetMemHandle
    cudaIpcOpenEventHandle cudaIpcOpenMemHandle cudaKernelSetAttributeForDevice
    cudaLibraryGetKernel cudaLibraryLoadData cudaLibraryUnload cudaMemcpy2DAsync
    cudaMemcpyToSymbol cudaStreamBeginCaptureToGraph cudaStreamUpdateCaptureDependencies
}
