//! A table's place in a document: between two comments, replaced as a whole.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Puts `intro` and `table` between the marks of `kind` in a file; appends marks it lacks.
pub(crate) fn section(path: &Path, kind: &str, intro: &str, table: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    fs::write(path, replaced(&text, kind, &format!("{intro}\n\n{table}")))?;
    eprintln!("the {kind} section of {} is new", path.display());
    Ok(())
}

fn replaced(text: &str, kind: &str, body: &str) -> String {
    let (start, end) = (format!("<!-- bench {kind} -->\n"), format!("<!-- /bench {kind} -->\n"));
    if let Some((before, rest)) = text.split_once(&start)
        && let Some((_, after)) = rest.split_once(&end)
    {
        return format!("{before}{start}\n{body}\n{end}{after}");
    }
    format!("{}\n\n{start}\n{body}\n{end}", text.trim_end())
}

/// Machine, date and peer in a sentence.
pub(crate) fn machine_line() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(": ")?.1.trim().to_owned())
    };
    let model = value("model name").unwrap_or_else(|| "an unknown CPU".into());
    let cpus = info.lines().filter(|line| line.starts_with("processor")).count();
    let date = first_line("date", &["-u", "+%Y-%m-%d"]);
    let qemu = first_line("qemu-system-x86_64", &["--version"]);
    format!("{cpus} CPUs ({model}), {date}, {qemu}.")
}

/// A warning about other work on this host, if there is much: figures are worse for it.
pub(crate) fn load_note() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next()?.parse().ok()?;
    (load > 0.7)
        .then(|| format!("Other work ran on the host: its load was {load:.1} at the start."))
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn a_section_is_replaced_and_the_rest_stays() {
        let first = replaced("# A\n", "cpu", "one");
        assert_eq!(first, "# A\n\n<!-- bench cpu -->\n\none\n<!-- /bench cpu -->\n");
        let second = replaced(&format!("{first}tail\n"), "cpu", "two");
        assert_eq!(second, "# A\n\n<!-- bench cpu -->\n\ntwo\n<!-- /bench cpu -->\ntail\n");
    }
}
