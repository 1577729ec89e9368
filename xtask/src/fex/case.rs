//! One test file of FEX-Emu's unittests: its configuration, JSON between `%ifdef CONFIG` and
//! `%endif`, says which registers it must end with and which memory it needs.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// What one register must hold, 64 bits at a time from the low end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) register: Register,
    pub(super) words: Vec<u64>,
}

/// A register that a test may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    /// In encoding order.
    General(usize),
    Rip,
    /// XMM or YMM.
    Vector(usize),
    /// A physical x87 register, whatever TOP.
    Mmx(usize),
}

/// One test.
#[derive(Clone, Debug, Default)]
pub(super) struct Case {
    pub(super) expected: Vec<Expected>,
    /// Address and bytes to map.
    pub(super) regions: Vec<(u64, u64)>,
    /// Address and contents.
    pub(super) memory: Vec<(u64, Vec<u8>)>,
    pub(super) is_32bit: bool,
    /// Processor features it says it needs.
    pub(super) features: Vec<String>,
}

const GENERAL: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13",
    "R14", "R15",
];

impl Case {
    /// Reads the configuration of a test's source.
    pub(super) fn parse(source: &str) -> Result<Self> {
        let Some((_, rest)) = source.split_once("%ifdef CONFIG") else {
            return Ok(Self::default());
        };
        let (json, _) = rest.split_once("%endif").context("%ifdef CONFIG without %endif")?;
        let parsed: Map<String, Value> = serde_json::from_str(json.trim())?;
        let mut case = Self::default();
        for (key, value) in &parsed {
            match key.to_ascii_uppercase().as_str() {
                "REGDATA" => {
                    for (name, value) in object(value)? {
                        case.expected.extend(expected(name, value)?);
                    }
                }
                "MEMORYREGIONS" => {
                    for (address, bytes) in object(value)? {
                        case.regions.push((number(address)?, number(text(bytes)?)?));
                    }
                }
                "MEMORYDATA" => {
                    for (address, bytes) in object(value)? {
                        case.memory.push((number(address)?, contents(text(bytes)?)?));
                    }
                }
                "MODE" => case.is_32bit = text(value)?.eq_ignore_ascii_case("32BIT"),
                "HOSTFEATURES" => {
                    let list = value.as_array().context("HostFeatures is a list")?;
                    for feature in list {
                        case.features.push(text(feature)?.to_ascii_uppercase());
                    }
                }
                // How FEX itself is set up, and comparisons between two runs of it.
                _ => {}
            }
        }
        Ok(case)
    }
}

/// `None`: a segment selector, which this guest sets as it likes.
fn expected(name: &str, value: &Value) -> Result<Option<Expected>> {
    let name = name.to_ascii_uppercase();
    let index = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
    let register = if let Some(number) = GENERAL.iter().position(|other| *other == name) {
        Register::General(number)
    } else if let Some(number) = index("XMM") {
        Register::Vector(number)
    } else if let Some(number) = index("MM") {
        Register::Mmx(number)
    } else {
        match name.as_str() {
            "RIP" => Register::Rip,
            "FS" | "GS" | "NONE" => return Ok(None),
            _ => bail!("unknown register {name}"),
        }
    };
    let words = match value {
        Value::Array(list) => {
            list.iter().map(|word| number(text(word)?)).collect::<Result<Vec<_>>>()?
        }
        one => vec![number(text(one)?)?],
    };
    Ok(Some(Expected { register, words }))
}

fn object(value: &Value) -> Result<&Map<String, Value>> {
    value.as_object().context("an object was expected")
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("a string was expected")
}

/// As Python's int(text, 0): prefixes, underscores, a sign.
fn number(text: &str) -> Result<u64> {
    let plain = text.trim().replace('_', "").to_ascii_lowercase();
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, plain.as_str()),
    };
    let parsed = match digits.split_at_checked(2) {
        Some(("0x", rest)) => u64::from_str_radix(rest, 16),
        Some(("0b", rest)) => u64::from_str_radix(rest, 2),
        Some(("0o", rest)) => u64::from_str_radix(rest, 8),
        _ => digits.parse(),
    };
    let value = parsed.with_context(|| format!("{text} is no number"))?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// Hexadecimal numbers separated by spaces, each stored with its low byte first.
fn contents(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in text.split(' ') {
        let mut digits = word.strip_prefix("0x").unwrap_or(word);
        while !digits.is_empty() {
            let (rest, last) = digits.split_at(digits.len().saturating_sub(2));
            bytes.push(u8::from_str_radix(last, 16).with_context(|| format!("data {word}"))?);
            digits = rest;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_whole() {
        let source = r#"%ifdef CONFIG
        { "RegData": { "RBX": "0xFFFF_0003", "XMM2": ["1", "-1"], "MM0": ["0x10", "2"] },
          "MemoryRegions": { "0x100000000": "4096" },
          "MemoryData": { "0xe0000000": "0x4142 43" },
          "HostFeatures": ["AVX"], "Mode": "32BIT" }
        %endif
        hlt"#;
        let case = Case::parse(source).unwrap();
        assert_eq!(case.expected.len(), 3);
        let rbx = Expected { register: Register::General(3), words: vec![0xffff_0003] };
        assert!(case.expected.contains(&rbx));
        let xmm2 = Expected { register: Register::Vector(2), words: vec![1, u64::MAX] };
        assert!(case.expected.contains(&xmm2));
        assert_eq!(case.regions, [(0x1_0000_0000, 4096)]);
        assert_eq!(case.memory, [(0xe000_0000, vec![0x42, 0x41, 0x43])]);
        assert!(case.is_32bit);
        assert_eq!(case.features, ["AVX"]);
        assert!(Case::parse("%ifdef CONFIG\n{\"RegData\": 1}\n%endif").is_err());
    }
}
