//! What code may do where it runs, as far as its translation depends on it.

/// What the vector and x87 units may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Gates {
    pub(crate) sse: bool,
    pub(crate) avx: bool,
    pub(crate) x87: bool,
    /// RDTSC may run unnoticed.
    pub(crate) time: bool,
    /// RDTSC counts instructions instead of asking the host.
    pub(crate) counted_time: bool,
    /// CPL is 0.
    pub(crate) kernel: bool,
    /// CR4.FSGSBASE.
    pub(crate) bases: bool,
    /// CR4.PKE.
    pub(crate) keys: bool,
    /// What lockstep could not undo may be done.
    pub(crate) unchecked: bool,
    /// Accesses may share checks.
    pub(crate) grouped: bool,
    /// Accesses go through windows.
    pub(crate) windows: bool,
    /// Along a path that was taken, instead of in order.
    pub(crate) path: bool,
    /// 32-bit code over a flat address space.
    pub(crate) flat: bool,
    /// There, FS and GS are whole.
    pub(crate) fs: bool,
    pub(crate) gs: bool,
}

impl Gates {
    /// A bit for each.
    pub(crate) fn bits(self) -> u16 {
        let Self { sse, avx, x87, time, counted_time, kernel, bases, keys, .. } = self;
        let Self { unchecked, grouped, windows, path, flat, fs, gs, .. } = self;
        let all = [
            sse,
            avx,
            x87,
            time,
            counted_time,
            kernel,
            bases,
            keys,
            unchecked,
            grouped,
            windows,
            path,
            flat,
            fs,
            gs,
        ];
        all.into_iter().fold(0, |bits, gate| bits << 1 | u16::from(gate))
    }

    /// What has these bits.
    pub(crate) fn from_bits(bits: u16) -> Self {
        let mut left = 15;
        let mut next = || {
            left -= 1;
            bits >> left & 1 != 0
        };
        // Fields are evaluated in the order of `bits`.
        Self {
            sse: next(),
            avx: next(),
            x87: next(),
            time: next(),
            counted_time: next(),
            kernel: next(),
            bases: next(),
            keys: next(),
            unchecked: next(),
            grouped: next(),
            windows: next(),
            path: next(),
            flat: next(),
            fs: next(),
            gs: next(),
        }
    }
}

#[cfg(test)]
impl Gates {
    /// All that 64-bit user code can have.
    pub(crate) const ALL: Self = Self {
        sse: true,
        avx: true,
        x87: true,
        time: true,
        counted_time: false,
        kernel: false,
        bases: true,
        keys: false,
        unchecked: true,
        grouped: true,
        windows: false,
        path: false,
        flat: false,
        fs: false,
        gs: false,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stand_for_gates() {
        for bits in 0..1 << 15 {
            assert_eq!(Gates::from_bits(bits).bits(), bits);
        }
        assert!(Gates::from_bits(1).gs && Gates::from_bits(1 << 14).sse);
        assert_eq!(Gates::from_bits(Gates::ALL.bits()), Gates::ALL);
    }
}
