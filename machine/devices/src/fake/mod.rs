//! Devices of one's own: what `roof run --device NAME` finds by name, each in one file.
//!
//! docs/writing-a-device.md walks through [`checksum`]. A new device is a file beside it and a line in
//! [`CATALOGUE`].

pub mod checksum;
mod faults;
mod options;

pub use faults::{Faults, Faulty, Pause};
pub use options::{Options, parse_time};

use crate::pci::PciFunction;

/// Makes a device of its options.
type Make = fn(&mut Options) -> Result<Box<dyn PciFunction>, String>;

/// Names and how they are made.
pub const CATALOGUE: &[(&str, Make)] =
    &[("checksum", |options| Ok(Box::new(checksum::Checksum::new(options)?)))];

/// The device that `NAME[,OPTION=VALUE..]` says, with the faults among its options.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn make(text: &str, pause: Pause) -> Result<Box<dyn PciFunction>, String> {
    let (name, options) = text.split_once(',').unwrap_or((text, ""));
    let Some((_, make)) = CATALOGUE.iter().find(|entry| entry.0 == name) else {
        let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.0).collect();
        return Err(format!("there is no such device; there are: {}", names.join(", ")));
    };
    let mut options = Options::parse(options)?;
    let device = make(&mut options)?;
    let faults = Faults::from(&mut options)?;
    options.finish()?;
    Ok(match faults == Faults::default() {
        true => device,
        false => Box::new(Faulty::new(device, faults, pause)),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn names_and_options_are_known_or_refused() {
        let made = |text: &str| make(text, Arc::new(|_| {})).map(|_| ());
        assert_eq!(made("checksum"), Ok(()));
        assert_eq!(made("checksum,block=7,flip=2,latency=1ms"), Ok(()));
        assert!(made("toaster").is_err_and(|why| why.contains("checksum")));
        assert!(made("checksum,slices=2").is_err_and(|why| why.contains("slices")));
        assert!(made("checksum,flip=often").is_err());
    }
}
