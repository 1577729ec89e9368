//! Says what kernel files are, and how long unpacking them takes: `inspect FILE..`.

use std::time::Instant;

use firmware::kernel::Kernel;
use firmware::unpack::{self, MAX_UNPACKED, Unpacked};

fn main() {
    for path in std::env::args().skip(1) {
        let file = match std::fs::read(&path) {
            Ok(file) => file,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let started = Instant::now();
        match Kernel::parse(&file) {
            Ok(kernel) => match unpack::unpack(kernel, MAX_UNPACKED) {
                Ok(unpacked) => println!("{path}: {} in {:?}", name(&unpacked), started.elapsed()),
                Err(error) => println!("{path}: {error}"),
            },
            Err(error) => println!("{path}: {error}"),
        }
    }
}

fn name(unpacked: &Unpacked<'_>) -> String {
    match unpacked {
        Unpacked::Linux { header, vmlinux } => format!(
            "Linux {}, {} bytes unpacked",
            header.kernel_version.as_deref().unwrap_or("(no version)"),
            vmlinux.len()
        ),
        Unpacked::Elf(elf) => format!("ELF entered at {:#x}", elf.entry),
        Unpacked::Multiboot(image) => format!("multiboot entered at {}", image.entry),
    }
}
