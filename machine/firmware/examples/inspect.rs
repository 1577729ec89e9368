//! Says what kernel files are, and how long unpacking them takes: `inspect FILE..`.

use std::time::Instant;

use firmware::kernel::Kernel;
use firmware::unpack::{MAX_UNPACKED, Payload, UnpackError};

fn main() {
    for path in std::env::args().skip(1) {
        let file = match std::fs::read(&path) {
            Ok(file) => file,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        match Kernel::parse(&file) {
            Ok(Kernel::BzImage(image)) => {
                let started = Instant::now();
                let release = image.header.kernel_version.as_deref().unwrap_or("(no version)");
                let unpacked = Payload::open(&file, image.payload, MAX_UNPACKED).and_then(count);
                match unpacked {
                    Ok(size) => println!(
                        "{path}: Linux {release}, {size} bytes unpacked in {:?}",
                        started.elapsed()
                    ),
                    Err(error) => println!("{path}: {error}"),
                }
            }
            Ok(Kernel::Elf(elf)) => println!("{path}: ELF entered at {:#x}", elf.entry),
            Ok(Kernel::Multiboot(image)) => {
                println!("{path}: multiboot entered at {}", image.entry);
            }
            Err(error) => println!("{path}: {error}"),
        }
    }
}

fn count(mut payload: Payload<'_>) -> Result<u64, UnpackError> {
    let mut size = 0;
    loop {
        match payload.next_piece()?.len() as u64 {
            0 => return Ok(size),
            more => size += more,
        }
    }
}
