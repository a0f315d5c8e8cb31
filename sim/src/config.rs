//! What is simulated: devices, their sizes and speeds, and how strictly.

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Devices.
    pub devices: usize,
    /// Bytes of each device.
    pub capacity: u64,
    /// Without contents: memory is counted and not there, so that traces of any size run.
    pub bookkeeping: bool,
    /// Nanoseconds that the clock moves with each call. 0: only a test, or a call that waits,
    /// moves it.
    pub tick_ns: u64,
    /// Bytes per nanosecond of a copy within a device and of a set.
    pub device_bandwidth: u64,
    /// Bytes per nanosecond of a copy between the host and a device, or two devices.
    pub link_bandwidth: u64,
    /// Whether the devices reach each other's memory.
    pub peers: bool,
    /// Of those that do, pairs (whose work, whose memory) that do not; one way each.
    pub apart: Vec<(usize, usize)>,
    /// Entry points that this driver does not have, by name.
    pub absent: Vec<String>,
    /// Whether the devices have virtual memory management.
    pub virtual_memory: bool,
    /// Whether the devices' memory can be exported as file descriptors.
    pub exports: bool,
    /// Whether the driver has pools of its own.
    pub memory_pools: bool,
    /// Whether a new stream or event may have the handle of one that is gone, as with drivers.
    pub reuse_handles: bool,
    /// What `cuDriverGetVersion` says.
    pub version: i32,
    /// Operations per stream that are remembered for reports.
    pub history: usize,
    /// Whether accesses are checked for order.
    pub check_order: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            devices: 2,
            capacity: 8 << 30,
            bookkeeping: false,
            tick_ns: 0,
            device_bandwidth: 1000,
            link_bandwidth: 25,
            peers: true,
            apart: Vec::new(),
            absent: Vec::new(),
            virtual_memory: true,
            exports: true,
            memory_pools: true,
            reuse_handles: false,
            version: 12080,
            history: 4096,
            check_order: true,
        }
    }
}

impl Config {
    /// Whether work of a device can be let use the memory of another.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.peers && !self.apart.contains(&(from, to))
    }

    /// The default with what the environment says, for programs that load this as their
    /// driver: `SIM_CUDA_DEVICES`, `SIM_CUDA_CAPACITY` (bytes), `SIM_CUDA_BOOKKEEPING` (0 or
    /// 1), `SIM_CUDA_TICK_NS`, `SIM_CUDA_REUSE_HANDLES` (0 or 1).
    pub fn from_env() -> Config {
        fn number(name: &str) -> Option<u64> {
            std::env::var(name).ok()?.parse().ok()
        }
        let default = Config::default();
        Config {
            devices: number("SIM_CUDA_DEVICES").map_or(default.devices, |n| n.min(32) as usize),
            capacity: number("SIM_CUDA_CAPACITY").unwrap_or(default.capacity),
            bookkeeping: number("SIM_CUDA_BOOKKEEPING").is_some_and(|n| n != 0),
            tick_ns: number("SIM_CUDA_TICK_NS").unwrap_or(default.tick_ns),
            reuse_handles: number("SIM_CUDA_REUSE_HANDLES").is_some_and(|n| n != 0),
            ..default
        }
    }
}
