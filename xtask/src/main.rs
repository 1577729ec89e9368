//! The project's own chores: `cargo xtask {ci, tidy, test, bench, soak, kut}`.
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod ci;
mod cpu;
mod fex;
mod kut;
mod net;
mod pair;
mod posix;
mod soak;
mod suite;
mod test386;
mod tidy;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything a landing keeps true: format, lints, house rules, all tests
    Ci,
    /// Checks the house rules: arrows, unsafe fence, file heads, licences
    Tidy,
    /// All tests: units, conformance, boots on soft, the KVM engine in nested QEMU
    Test {
        /// Only one suite of whole boots: boot or nested
        #[arg(long)]
        suite: Option<String>,
        /// Only cases whose name contains this
        #[arg(long)]
        only: Option<String>,
    },
    /// Times roof beside QEMU TCG: boot, start-up, memory
    Bench {
        /// Rounds of each
        #[arg(long, default_value_t = 3)]
        runs: usize,
        #[command(subcommand)]
        of: Option<BenchOf>,
    },
    /// Checks in a directory what POSIX says of files; the boot suite runs it in guests, on shares
    Posix {
        /// The directory
        folder: PathBuf,
    },
    /// The server of network tests and measurements, until it is ended
    #[command(hide = true)]
    Serve {
        /// ADDRESS:PORT
        at: SocketAddr,
    },
    /// Boots each kernel many times with small commands and checks what they say
    Soak {
        #[command(flatten)]
        options: soak::Options,
        #[command(subcommand)]
        of: Option<SoakOf>,
    },
    /// Runs a checkout of barotto/test386.asm on soft
    Test386 {
        /// The checkout
        folder: PathBuf,
        /// This roof instead of one built now
        #[arg(long)]
        roof: Option<PathBuf>,
    },
    /// Runs the assembly unit tests of a checkout of FEX-Emu/FEX on soft
    Fex {
        /// The checkout
        folder: PathBuf,
        /// Only tests whose path contains this
        #[arg(long)]
        only: Option<String>,
        /// Tests at a time
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// On QEMU TCG instead
        #[arg(long)]
        qemu: bool,
        /// This roof instead of one built now
        #[arg(long)]
        roof: Option<PathBuf>,
    },
    /// Runs a built checkout of kvm-unit-tests on soft and on QEMU TCG, side by side
    Kut {
        /// The checkout, after ./configure && make
        folder: PathBuf,
        /// Only these entries
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Seconds for each entry on each machine
        #[arg(long, default_value_t = 60)]
        timeout: u64,
        /// Entries at a time
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Write the table there, as Markdown
        #[arg(long)]
        write: Option<PathBuf>,
        /// This roof instead of one built now
        #[arg(long)]
        roof: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum BenchOf {
    /// Times workloads natively, in QEMU TCG and in roof, between console markers
    Cpu(cpu::Options),
    /// Times work in a shared folder of 100,000 files in roof and in QEMU TCG with 9p
    Fs,
    /// Times TCP between guest and host in roof and in QEMU TCG, both on their user networks
    Net(bench::net::Options),
    /// Times reads and writes of a virtio disk in QEMU TCG and in roof
    Disk(bench::disk::Options),
    /// Times start or devices (--devices) on KVM in roof, kvmtool and QEMU, in an emulated machine
    Nested(bench::nested::Options),
}

#[derive(Subcommand)]
enum SoakOf {
    /// Kills roof at random moments while its guest writes to a disk, and checks what is there
    Kill(soak::kill::Options),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let root = workspace_root();
    match arguments.chore {
        Chore::Ci => ci::checks(&root).and_then(|()| ci::tests(&root)),
        Chore::Tidy => tidy::run(&root),
        Chore::Test { suite: None, only: None } => ci::tests(&root),
        Chore::Test { suite, only } => {
            let roof = cargo::build_roof(&root)?;
            match suite.as_deref() {
                Some("nested") => suite::nested::suite(&root, &roof, only),
                Some("boot") | None => suite::boot::suite(&root, &roof, only),
                Some(other) => anyhow::bail!("there is no suite {other}: boot, nested"),
            }
        }
        Chore::Bench { of: Some(BenchOf::Cpu(options)), .. } => cpu::run(&root, &options),
        Chore::Posix { folder } => posix::run(&folder),
        Chore::Serve { at } => net::serve_at(at),
        Chore::Bench { of: Some(BenchOf::Fs), runs } => {
            let roof = cargo::build_roof(&root)?;
            bench::files::run(&root, &roof, runs)
        }
        Chore::Bench { of: Some(BenchOf::Net(options)), .. } => bench::net::run(&root, &options),
        Chore::Bench { of: Some(BenchOf::Disk(options)), .. } => bench::disk::run(&root, &options),
        Chore::Bench { of: Some(BenchOf::Nested(options)), .. } => {
            let roof = cargo::build_roof(&root)?;
            bench::nested::run(&root, &roof, &options)
        }
        Chore::Soak { of: Some(SoakOf::Kill(options)), .. } => soak::kill::run(&root, &options),
        Chore::Soak { options, of: None } => soak::run(&root, &options),
        Chore::Bench { runs, of: None } => {
            let roof = cargo::build_roof(&root)?;
            bench::run(&root, &roof, runs)
        }
        Chore::Test386 { folder, roof } => {
            let roof = roof.map_or_else(|| cargo::build_roof(&root), Ok)?;
            test386::run(&roof, &folder)
        }
        Chore::Fex { folder, only, jobs, qemu, roof } => {
            let roof = roof.map_or_else(|| cargo::build_roof(&root), Ok)?;
            fex::run(&roof, &fex::Options { folder, only, jobs, qemu })
        }
        Chore::Kut { folder, only, timeout, jobs, write, roof } => {
            let roof = roof.map_or_else(|| cargo::build_roof(&root), Ok)?;
            let timeout = Duration::from_secs(timeout);
            kut::run(&roof, &kut::Options { folder, only, timeout, write, jobs })
        }
    }
}

/// The folder of the workspace's Cargo.toml.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").into()
}
