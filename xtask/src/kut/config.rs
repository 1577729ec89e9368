//! x86/unittests.cfg of kvm-unit-tests: INI-like sections, values optionally in single quotes.

use std::time::{SystemTime, UNIX_EPOCH};

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) smp: u32,
    pub(crate) arguments: String,
    /// Extra options for QEMU.
    pub(crate) qemu: Vec<String>,
    pub(crate) arch: Option<String>,
    /// What must hold on the host: files and their contents.
    pub(crate) check: Vec<String>,
}

impl Entry {
    /// Whether it asks for something that a parameter of KVM's gives and our machine lacks. The
    /// suite's own runner skips such an entry where the parameter is off; nothing in the guest need
    /// tell (AMD's CPUID cannot say that there are no counters).
    pub(crate) fn asks_for_more(&self) -> bool {
        const LACKING: [&str; 2] = ["kvm/parameters/enable_pmu=Y", "enable_vmware_backdoor=Y"];
        self.check.iter().any(|check| LACKING.iter().any(|lacking| check.ends_with(lacking)))
    }

    /// Memory size as `-m` asks for it, 128 MiB as QEMU's default.
    pub(crate) fn memory(&self) -> String {
        let after = |flag: &str| {
            self.qemu.iter().position(|word| word == flag).and_then(|at| self.qemu.get(at + 1))
        };
        match after("-m") {
            Some(size) if size.ends_with(|c: char| c.is_ascii_digit()) => format!("{size}M"),
            Some(size) => size.to_uppercase(),
            None => "128M".to_owned(),
        }
    }

    /// The arguments as they are now: with the one command that the suite substitutes carried out.
    pub(crate) fn arguments_now(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.arguments.replace("`date +%s`", &now.as_secs().to_string())
    }

    /// The processor vendor that `-cpu ..,vendor=` asks for.
    pub(crate) fn vendor(&self) -> Option<&'static str> {
        let model = self.qemu.iter().position(|word| word == "-cpu")? + 1;
        match self.qemu.get(model)?.split_once("vendor=")?.1.split(',').next()? {
            "AuthenticAMD" => Some("amd"),
            "GenuineIntel" => Some("intel"),
            _ => None,
        }
    }
}

/// All entries in the order of the file.
pub(crate) fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            entries.push(Entry { name: name.into(), smp: 1, ..Entry::default() });
            continue;
        }
        let (Some(entry), Some((key, value))) = (entries.last_mut(), line.split_once('=')) else {
            continue;
        };
        let value = value.trim();
        match key.trim() {
            "file" => entry.file = value.into(),
            "smp" => entry.smp = value.parse().unwrap_or(4),
            "arch" => entry.arch = Some(value.into()),
            "check" => entry.check = value.split_whitespace().map(str::to_owned).collect(),
            "test_args" => entry.arguments = value.trim_matches(['\'', '"']).into(),
            "qemu_params" | "extra_params" => {
                entry.qemu = value.split_whitespace().map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_values_and_quotes() {
        let text = "# c\n[a]\nfile = a.flat\nsmp = 2\n[b]\nfile=b.flat\ntest_args = 'x y'\n\
                    qemu_params = -cpu max -m 2048\narch = x86_64\n\
                    check = /sys/module/kvm/parameters/enable_pmu=Y /proc/x=0\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].smp, entries[0].memory()), (2, "128M".into()));
        assert_eq!(entries[1].arguments, "x y");
        assert_eq!(entries[1].memory(), "2048M");
        assert_eq!(entries.iter().map(Entry::asks_for_more).collect::<Vec<_>>(), [false, true]);
        assert_eq!(entries[1].vendor(), None);
        let amd = parse("[c]\nqemu_params = -m 1 -cpu max,vendor=AuthenticAMD,+x\n");
        assert_eq!(amd[0].vendor(), Some("amd"));
        assert_eq!(entries[1].arch.as_deref(), Some("x86_64"));
    }
}
