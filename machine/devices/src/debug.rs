//! Ports for tests and for people: debug exit, debug console, POST code.
//!
//! Debug exit follows QEMU's isa-debug-exit (a write of `v` ends the machine with status
//! `v << 1 | 1`), the console follows Bochs' port 0xe9 (it reads as 0xe9, which tells guests that
//! it is there), the POST port keeps the last code. Invariant: none of them has hidden state.

/// What a debug console reads as, to say that it is there.
pub const CONSOLE_PRESENT: u8 = 0xe9;

/// The status of a debug exit: `value` is the little-endian number the guest wrote. Never 0.
pub fn debug_exit_code(value: u32) -> u32 {
    value << 1 | 1
}

/// The diagnostic port 0x80: last code written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PostCode(u8);

/// The saved state of a [`PostCode`], first version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostCodeV1 {
    /// The last code.
    pub code: u8,
}

impl PostCode {
    /// No code yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last code written.
    pub fn read(&self) -> u8 {
        self.0
    }

    /// A new code. Linux writes here to pass a microsecond, so it must be cheap.
    pub fn write(&mut self, code: u8) {
        self.0 = code;
    }

    /// The state to save.
    pub fn save(&self) -> PostCodeV1 {
        PostCodeV1 { code: self.0 }
    }

    /// The port in a saved state.
    pub fn restore(state: PostCodeV1) -> Self {
        Self(state.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_odd() {
        assert_eq!(debug_exit_code(0), 1);
        assert_eq!(debug_exit_code(1), 3);
        assert_eq!(debug_exit_code(u32::MAX), u32::MAX);
    }

    #[test]
    fn post_code_round_trips() {
        let mut post = PostCode::new();
        post.write(0x5a);
        let back = PostCode::restore(post.save());
        assert_eq!((back, back.read()), (post, 0x5a));
    }
}
