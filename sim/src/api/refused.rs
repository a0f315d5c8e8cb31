//! Entry points that programs look up before they need them, and that this driver refuses.

use super::entry_points;
use crate::code::ERROR_NOT_SUPPORTED;

entry_points! {
    fn cuIpcGetMemHandle() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuIpcOpenMemHandle_v2() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuIpcOpenMemHandle() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuIpcCloseMemHandle() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuMulticastCreate() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuMulticastAddDevice() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuMulticastBindMem() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuMulticastUnbind() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuStreamWriteValue32_v2() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuStreamWriteValue32() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuMemsetD32Async() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuGreenCtxCreate() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuGreenCtxDestroy() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuGreenCtxStreamCreate() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuCtxFromGreenCtx() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuDeviceGetDevResource() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuDevResourceGenerateDesc() |_state| { Err(ERROR_NOT_SUPPORTED) }
    fn cuDevSmResourceSplitByCount() |_state| { Err(ERROR_NOT_SUPPORTED) }
}
