//! What the process says of itself, under the names that Prometheus' own libraries give it.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage},
    time::TimeValLike as _,
};

use super::Text;

/// The process, since it was first looked at.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    start: SystemTime,
}

impl Default for Process {
    /// As it is at its start.
    fn default() -> Self {
        Self { start: SystemTime::now() }
    }
}

/// Writes how much the process uses of the machine, and which program it is. What cannot be read is left out.
pub fn describe(process: &Process, text: &mut Text) {
    let start = process.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    text.gauge("process_start_time_seconds", "When the process was started, as Unix time.").sample(&[], start.as_secs_f64());
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let micros = (usage.user_time() + usage.system_time()).num_microseconds();
        let used = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
        text.counter("process_cpu_seconds_total", "Time on a processor.").sample(&[], used.as_secs_f64());
    }
    if let Some(bytes) = status("VmRSS:") {
        text.gauge("process_resident_memory_bytes", "Memory in use.").sample(&[], bytes);
    }
    if let Some(bytes) = status("VmSize:") {
        text.gauge("process_virtual_memory_bytes", "Addresses in use.").sample(&[], bytes);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "File descriptors in use.").sample(&[], descriptors.count());
    }
    if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        text.gauge("process_max_fds", "How many file descriptors there may be.").sample(&[], limit);
    }
    let version: &dyn std::fmt::Display = &env!("CARGO_PKG_VERSION");
    text.gauge("whatsnext_build_info", "Always 1; the labels say which program this is.").sample(&[("version", version)], 1);
}

/// A line of the process's status that is in kB, in bytes.
fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
