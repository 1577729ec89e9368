//! What this host has: processors, memory. Read from /proc, no more often than asked.

/// Processors this process may use.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// Memory in MiB: all of it, and what is free or can be freed. `None` without /proc.
pub(crate) fn memory_mib() -> Option<HostMemory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(HostMemory { total: field("MemTotal")? >> 10, available: field("MemAvailable")? >> 10 })
}

/// Memory of the host, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostMemory {
    /// All of it.
    pub(crate) total: u64,
    /// What a new process can have.
    pub(crate) available: u64,
}
