//! CPUID as data: leaves by number, looked up with the architecture's rules (SDM vol. 2A, CPUID).

/// The four registers a CPUID leaf returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// One leaf of a CPUID table. `subleaf` is `None` where ECX is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CpuidEntry {
    pub leaf: u32,
    pub subleaf: Option<u32>,
    pub result: CpuidResult,
}

/// Who makes a processor, where behaviour differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD.
    Amd,
}

impl Vendor {
    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intel => "intel",
            Self::Amd => "amd",
        }
    }

    /// EBX, ECX and EDX of leaf 0.
    pub const fn words(self) -> [u32; 3] {
        match self {
            Self::Intel => [0x756e_6547, 0x6c65_746e, 0x4965_6e69],
            Self::Amd => [0x6874_7541, 0x444d_4163, 0x6974_6e65],
        }
    }
}

/// Looks a leaf up in a table; unknown leaves read as zero.
pub fn lookup(table: &[CpuidEntry], leaf: u32, subleaf: u32) -> CpuidResult {
    table
        .iter()
        .find(|e| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf))
        .map(|e| e.result)
        .unwrap_or_default()
}
