//! The command line, as clap derives it.
//!
//! Invariant: values are only given a type here; whether they make sense is the facade's to say.

mod attach;
pub(crate) mod disk;
mod extras;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use control::vm::{
    CpuVendor, Deterministic, DiskConfig, EngineChoice, Execution, Root, RunConfig, ShareWish,
};

/// Virtual machines under one roof.
#[derive(Debug, Parser)]
#[command(
    name = "roof",
    version,
    about,
    arg_required_else_help = true,
    after_help = "\
Examples:
  roof run                         a root shell in a VM
  roof run -- uname -a             one command; its exit status is roof's
  roof run ./bzImage               the kernel you just built
  git bisect run roof run -- ./test

`roof COMMAND --help` says more."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Boot a Linux kernel to a shell or a command
    Run(Box<Run>),
    /// List or fetch kernels
    Kernel {
        #[command(subcommand)]
        task: Kernel,
    },
    /// Create, look at, resize, check or convert disk images
    Disk {
        #[command(subcommand)]
        task: disk::Disk,
    },
    /// Check what this host offers, and what to fix
    Doctor,
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Kernel {
    /// List the kernels that `roof run` knows, the one it takes first
    List,
    /// Fetch a kernel package through the host's package manager, without root
    ///
    /// Prints the path of the kernel image. A kernel that is in the cache already is not fetched
    /// again, unless --update says so.
    #[command(after_help = "\
Examples:
  roof kernel fetch                          the distribution's cloud kernel
  roof kernel fetch linux-image-rt-amd64     another package
  roof kernel fetch 6.1.0-50-amd64           a release")]
    Fetch {
        /// A package or a release; the distribution's cloud kernel if left out
        name: Option<String>,
        /// Look for a newer one even if it is in the cache
        #[arg(long)]
        update: bool,
    },
    /// Remove cached kernels that newer ones replaced, and modules that no guest can need
    Prune,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roof run                                   a root shell (Ctrl-A x quits, Ctrl-A h helps)
  roof run -- make check                     this directory's tests, with this host's programs
  roof run -- sh -c 'exit 7'                 exits with 7
  roof run -c 2 -m 1G ./bzImage -- nproc     your kernel, two CPUs, 1 GiB
  roof run linux-image-rt-amd64              a kernel from the cache, by package or release
  roof run -d disk.img -- mount /dev/vda /mnt
                                             a disk (`roof disk create disk.img 1G` makes one)
  roof run -P 8080:80 -- httpd -f            the guest's port 80 is http://127.0.0.1:8080
  roof run vmlinux -i initrd.img             your initrd untouched, its console on stdout
  git bisect run roof run -- ./test          125 (skip) when roof itself fails
  roof run --deterministic -- ./flaky </dev/null
                                             the same run each time, to the instruction

Exit status: the command's own (128 + signal if one ended it); 124 the time was up; 120 the guest
panicked or died early; 125 roof failed. With an initrd of yours: 0 when it powers off.")]
pub(crate) struct Run {
    /// Kernel: a bzImage, vmlinux or multiboot file, or a name in the cache; found or fetched if
    /// left out
    kernel: Option<PathBuf>,
    /// CPU engine: kvm where it is hardware that works, soft everywhere
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// CPUs (default: 1 on soft; the host's on kvm, at most 4)
    #[arg(short, long)]
    cpus: Option<u32>,
    /// Memory: 512M, 2G; a plain number is MiB (default: 512M and 256M for each further CPU)
    #[arg(short, long, value_parser = parse_size)]
    memory: Option<u64>,
    /// Boot this initrd untouched, with its own /init
    #[arg(short, long)]
    initrd: Option<PathBuf>,
    /// Attach a disk image or block device as /dev/vda, the next as /dev/vdb
    ///
    /// Behind it, in any order: `,ro` it cannot be changed; `,cow` writes go to a temporary file that
    /// vanishes (the default for block devices); `,rw` write to a block device; `,format=raw` or
    /// `,format=qcow2` instead of detecting it; `,backing=FILE` allows a backing file outside of the
    /// image's folder. See docs/disks.md.
    #[arg(short, long = "disk", value_name = "FILE[,ro|rw|cow][,format=F]", value_parser = attach::parser())]
    disks: Vec<DiskConfig>,
    /// The guest's root directory: this host's, changed in memory only; or a small one of its own
    #[arg(long, value_enum, value_name = "ROOT", default_value_t)]
    root: RootDirectory,
    /// Share a directory, at its own path or another: rw (the default), ro, or cow (changes stay in
    /// memory). The current one is shared unasked if it lies in your home directory
    #[arg(short, long = "share", value_name = "DIR[:PATH][:ro|rw|cow]")]
    shares: Vec<OsString>,
    /// Run the command as you, not as root
    #[arg(long)]
    as_user: bool,
    /// Network: none; user, the default, with your own rights; tap=NAME, an interface of this host
    ///
    /// On the user network the guest is 10.0.2.15 and reaches what you reach, except this host's
    /// loopback address; `user,loopback` makes that 10.0.2.2 in the guest. Kernels that are no Linux and
    /// deterministic runs have no network unless asked for. With several CPUs the card has a pair of
    /// queues for each (up to 16). See docs/network.md.
    #[arg(long, value_name = "NETWORK")]
    net: Option<String>,
    /// Let a port of this host lead to one of the guest's; on 127.0.0.1 unless an address says more
    #[arg(short = 'P', long = "port", value_name = "[ADDR:]HOST:GUEST[/udp]")]
    forwards: Vec<String>,
    /// Add this to the kernel command line
    #[arg(short = 'p', long, allow_hyphen_values = true)]
    append: Option<String>,
    /// End the VM after so many seconds, with status 124
    #[arg(long, value_name = "SECS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Write a report for programs (docs/json.md)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Show the kernel's whole log on standard error
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Add the devices of kvm-unit-tests: pc-testdev, debug exit at 0xf4
    #[arg(long)]
    test_devices: bool,
    /// Show a processor of this vendor instead of the host's (engine soft)
    #[arg(long, value_name = "VENDOR")]
    cpu_vendor: Option<Vendor>,
    /// Make every run the same run: instructions make the time, random numbers come from a seed
    ///
    /// One CPU on the engine soft. Time starts at 2026-01-01 and goes by one nanosecond for each
    /// instruction; a guest that waits waits no time. Standard input is read to its end first. See
    /// docs/deterministic.md.
    #[arg(long)]
    deterministic: bool,
    /// Random numbers of a deterministic run
    #[arg(long, value_name = "N", default_value_t, requires = "deterministic")]
    seed: u64,
    /// Write a deterministic run's events, a line each, with their instruction counts
    #[arg(long, value_name = "FILE", requires = "deterministic")]
    trace_events: Option<PathBuf>,
    #[command(flatten)]
    extras: extras::Options,
    /// The command and its arguments; a shell if left out
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum RootDirectory {
    /// This host's where the kernel can (virtio-fs, overlayfs)
    #[default]
    Auto,
    /// This host's, or fail
    Host,
    /// In memory, with what the command needs
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Vendor {
    Intel,
    Amd,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Engine {
    #[default]
    Auto,
    /// The software CPU
    Soft,
    /// The software CPU, every block interpreted first and compared: slow
    #[value(name = "soft,check")]
    SoftCheck,
    /// The software CPU without its translator
    #[value(name = "soft,interpret")]
    SoftInterpret,
    Kvm,
}

impl Run {
    /// The wish, without a terminal.
    pub(crate) fn config(&self) -> RunConfig {
        RunConfig {
            kernel: self.kernel.clone(),
            engine: match self.engine {
                Engine::Auto => EngineChoice::Auto,
                Engine::Soft => EngineChoice::Soft(Execution::Translate),
                Engine::SoftCheck => EngineChoice::Soft(Execution::Check),
                Engine::SoftInterpret => EngineChoice::Soft(Execution::Interpret),
                Engine::Kvm => EngineChoice::Kvm,
            },
            cpus: self.cpus,
            memory_mib: self.memory,
            initrd: self.initrd.clone(),
            disks: self.disks.clone(),
            root: match self.root {
                RootDirectory::Auto => Root::Auto,
                RootDirectory::Host => Root::Host,
                RootDirectory::None => Root::None,
            },
            shares: self.shares.iter().map(|text| ShareWish::parse(text)).collect(),
            as_user: self.as_user,
            net: self.net.clone(),
            forwards: self.forwards.clone(),
            append: self.append.clone(),
            timeout: self.timeout,
            command: self.command.clone(),
            terminal: None,
            verbose: self.verbose,
            test_devices: self.test_devices,
            cpu_vendor: self.cpu_vendor.map(|vendor| match vendor {
                Vendor::Intel => CpuVendor::Intel,
                Vendor::Amd => CpuVendor::Amd,
            }),
            deterministic: self
                .deterministic
                .then(|| Deterministic { seed: self.seed, trace: self.trace_events.clone() }),
            extras: self.extras.extras(),
            input: None,
        }
    }
}

/// A size in MiB.
fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match lower.as_bytes().last() {
        Some(b'm') => (&lower[..lower.len() - 1], 0),
        Some(b'g') => (&lower[..lower.len() - 1], 10),
        Some(b't') => (&lower[..lower.len() - 1], 20),
        _ => (lower, 0),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a size is like 512M, 2G or 1024 (MiB)".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large to be one".to_owned())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a time is a number of seconds".to_owned())?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        Err("a time limit of 0 would end everything".into())
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("512M"), Ok(512));
        assert_eq!(parse_size("2g"), Ok(2048));
        assert_eq!(parse_size("1GiB"), Ok(1024));
        assert_eq!(parse_size("1T"), Ok(1 << 20));
        assert!(parse_size("").is_err() && parse_size("x").is_err() && parse_size("-1").is_err());
        assert!(parse_size("99999999999999999T").is_err());
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let parsed =
            Arguments::try_parse_from(["roof", "run", "-c", "2", "k", "--", "sh", "-c", "exit 7"]);
        let Task::Run(run) = parsed.expect("a good command line").task else {
            panic!("it says run");
        };
        let config = run.config();
        assert_eq!(config.cpus, Some(2));
        assert_eq!(config.kernel, Some("k".into()));
        assert_eq!(config.command, ["sh", "-c", "exit 7"]);
    }
}
