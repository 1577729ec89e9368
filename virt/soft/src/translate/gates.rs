//! What code may do where it runs, as far as its translation depends on it.

/// Makes [`Gates`] with a bit for each, the last gate's the lowest.
macro_rules! gates {
    ($($(#[$about:meta])* $gate:ident,)*) => {
        /// What code may do now.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) struct Gates {
            $($(#[$about])* pub(crate) $gate: bool,)*
        }

        impl Gates {
            /// A bit for each.
            pub(crate) fn bits(self) -> u16 {
                [$(self.$gate),*].into_iter().fold(0, |bits, gate| bits << 1 | u16::from(gate))
            }

            /// What has these bits.
            pub(crate) fn from_bits(bits: u16) -> Self {
                let mut left = [$(stringify!($gate)),*].len();
                let mut next = || {
                    left -= 1;
                    bits >> left & 1 != 0
                };
                // Fields are evaluated in this order.
                Self { $($gate: next(),)* }
            }
        }
    };
}

gates! {
    /// SSE instructions may run.
    sse,
    /// AVX instructions may run.
    avx,
    /// x87 and MMX instructions may run.
    x87,
    /// RDTSC may run unnoticed.
    time,
    /// RDTSC counts instructions instead of asking the host.
    counted_time,
    /// CPL is 0.
    kernel,
    /// CR4.FSGSBASE.
    bases,
    /// CR4.PKE.
    keys,
    /// What lockstep could not undo may be done.
    unchecked,
    /// Accesses may share checks.
    grouped,
    /// Accesses go through windows.
    windows,
    /// Along a path that was taken, instead of in order.
    path,
    /// 32-bit code over a flat address space.
    flat,
    /// There, FS is whole.
    fs,
    /// And GS.
    gs,
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
