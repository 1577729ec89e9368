//! What benchmarks hold against each other: one kernel with one initrd in roof's software CPU and in
//! QEMU's translator, told the same.

use std::path::Path;
use std::process::Command;

/// The kernel command line in both.
const APPEND: &str = "console=ttyS0 panic=-1 quiet tsc=reliable cryptomgr.notests";

/// A guest that both run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
}

impl Pair<'_> {
    /// In this roof, by an engine of this name; the console is its standard output.
    pub(crate) fn roof(&self, roof: &Path, engine: &str) -> Command {
        let mut command = Command::new(roof);
        command.args(["run", "-q", "--engine", engine, "-p", APPEND]);
        command.arg("-c").arg(self.cpus.to_string()).arg("-m").arg(self.memory_mib.to_string());
        command.arg("-i").arg(self.initrd).arg(self.kernel);
        command
    }

    /// In QEMU, by its translator whatever the host could do.
    pub(crate) fn tcg(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio", "-append", APPEND]);
        command.arg("-smp").arg(self.cpus.to_string()).arg("-m").arg(self.memory_mib.to_string());
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initrd);
        command
    }
}
