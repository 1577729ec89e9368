//! pvpanic: the guest tells that it panicked (QEMU docs/specs/pvpanic).
//!
//! One byte port: reading gives the events understood, writing reports them. Invariant: stateless.

/// The guest's kernel panicked.
pub const PANICKED: u8 = 1 << 0;
/// The guest's kernel crashed and its crash kernel takes over.
pub const CRASH_LOADED: u8 = 1 << 1;

/// What a guest reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicEvent {
    /// It panicked and will do nothing more.
    Panicked,
    /// It crashed and runs its crash kernel now.
    CrashLoaded,
}

/// What a read of the port gives: the events understood.
pub fn read() -> u8 {
    PANICKED | CRASH_LOADED
}

/// What a write of `value` reports; unknown bits are ignored, a panic wins over a crash kernel.
pub fn write(value: u8) -> Option<PanicEvent> {
    if value & PANICKED != 0 {
        Some(PanicEvent::Panicked)
    } else if value & CRASH_LOADED != 0 {
        Some(PanicEvent::CrashLoaded)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_events() {
        assert_eq!(read(), 3);
        assert_eq!(write(1), Some(PanicEvent::Panicked));
        assert_eq!(write(2), Some(PanicEvent::CrashLoaded));
        assert_eq!(write(3), Some(PanicEvent::Panicked));
        assert_eq!(write(0xfc), None);
    }
}
