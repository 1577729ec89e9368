//! The unsafe fence: where `unsafe` may stand, and that every other crate forbids it outright.

use super::Source;

/// Path prefixes inside the fence; a `sys/` folder anywhere is inside too.
const INSIDE: &[&str] = &[
    "base/memory/src/",
    "virt/kvm/",
    "virt/soft/src/simd/",
    "virt/soft/src/translate/",
    "virt/soft/src/cache/",
];

/// Test programs that must do to the host what guests do: the differential test's native child.
const INSIDE_TESTS: &[&str] = &["virt/soft/tests/", "virt/conformance/tests/"];

fn is_inside(path: &str) -> bool {
    let listed = INSIDE.iter().chain(INSIDE_TESTS).any(|prefix| path.starts_with(prefix));
    listed || path.contains("/sys/")
}

/// A sentence for each `unsafe` outside, and for each crate root that neither holds a fenced
/// module nor forbids `unsafe`.
pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for source in sources {
        if !is_inside(&source.path) {
            for (number, line) in source.text.lines().enumerate() {
                if has_unsafe(line) {
                    breaches.push(format!(
                        "{}:{} uses unsafe outside the fence: move it behind a safe function in \
                         a sys/ folder or one of the fenced modules",
                        source.path,
                        number + 1
                    ));
                }
            }
        }
        if let Some(root) = crate_root(&source.path) {
            let fenced =
                sources.iter().any(|other| other.path.starts_with(root) && is_inside(&other.path));
            if !fenced && !source.text.contains("#![forbid(unsafe_code)]") {
                breaches.push(format!("{} must say #![forbid(unsafe_code)]", source.path));
            }
        }
    }
    breaches
}

/// The folder of the crate that this file is the root of.
fn crate_root(path: &str) -> Option<&str> {
    path.strip_suffix("src/lib.rs").or_else(|| path.strip_suffix("src/main.rs"))
}

/// Whether a line has the keyword outside comments and strings.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let outside_strings: String = code.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    outside_strings.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(path: &str, text: &str) -> usize {
        check(&[Source { path: path.into(), text: text.into() }]).len()
    }

    #[test]
    fn the_keyword_outside_is_seen() {
        assert_eq!(breaches("machine/devices/src/a.rs", "let x = unsafe { y };"), 1);
        assert_eq!(breaches("virt/soft/src/vcpu/a.rs", "unsafe fn f() {}"), 1);
    }

    #[test]
    fn comments_strings_and_the_inside_are_not() {
        assert_eq!(breaches("machine/devices/src/a.rs", "// unsafe\nlet s = \"unsafe\";"), 0);
        assert_eq!(breaches("machine/devices/src/a.rs", "#![forbid(unsafe_code)]"), 0);
        assert_eq!(breaches("virt/soft/src/sys/a.rs", "unsafe { x }"), 0);
        assert_eq!(breaches("virt/kvm/src/a.rs", "unsafe { x }"), 0);
    }

    #[test]
    fn a_crate_without_fenced_modules_forbids() {
        assert_eq!(breaches("machine/devices/src/lib.rs", "//! x"), 1);
        assert_eq!(breaches("machine/devices/src/lib.rs", "#![forbid(unsafe_code)]"), 0);
        assert_eq!(breaches("base/memory/src/lib.rs", "//! x"), 0);
    }
}
