//! The engine driven through its seam by tiny guests. Those that any /dev/kvm can run, run on any;
//! the rest ask for hardware and say so where it is missing.

mod interrupts;
mod io;
mod paths;
mod round_trip;
mod running;
mod support;
