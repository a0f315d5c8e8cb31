//! What PyTorch links to and this does not do: refused, and named on the standard error, each
//! once, with `SIM_CUDART_LOG=1`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::answer::answer;
use crate::driver::{Code, NOT_SUPPORTED};

/// Says once what was refused, to those who want to hear it.
pub fn say(name: &str, said: &AtomicBool) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    let wanted = || std::env::var("SIM_CUDART_LOG").is_ok_and(|choice| choice == "1");
    if *WANTED.get_or_init(wanted) && !said.swap(true, Ordering::Relaxed) {
        eprintln!("sim_cudart: {name} is not supported");
    }
}

macro_rules! refused {
    ($($name:ident)*) => {
        $(
            /// Refused.
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> Code {
                static SAID: AtomicBool = AtomicBool::new(false);
                say(stringify!($name), &SAID);
                answer(|_| Err(NOT_SUPPORTED))
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
