//! A deterministic run is the same run each time: a tiny kernel that prints whatever could differ.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{World, vmlinux};

/// 300 times: what the PIT, the TSC, RDRAND, the PM timer, the RTC and the serial line's input show,
/// to the serial line, with a loop that is translated in between; then exit.
const CODE: &[u8] = &[
    0xb9, 0x2c, 0x01, 0x00, 0x00, // mov ecx, 300
    // again:
    0xe4, 0x40, // in al, 0x40
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0x0f, 0x31, // rdtsc
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0x0f, 0xc7, 0xf0, // rdrand eax
    0xee, // out dx, al
    0xec, // in al, dx
    0xee, // out dx, al
    0x66, 0xba, 0x08, 0x06, // mov dx, 0x608
    0xed, // in eax, dx
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0x30, 0xc0, // xor al, al
    0xe6, 0x70, // out 0x70, al
    0xe4, 0x71, // in al, 0x71
    0xee, // out dx, al
    0xbe, 0xa0, 0x86, 0x01, 0x00, // mov esi, 100000
    // spin:
    0x0f, 0x31, // rdtsc
    0x01, 0xc7, // add edi, eax
    0xff, 0xce, // dec esi
    0x75, 0xf8, // jnz spin
    0x89, 0xf8, // mov eax, edi
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0xff, 0xc9, // dec ecx
    0x75, 0xc3, // jnz again
    0x66, 0xba, 0xf4, 0x00, // mov dx, 0xf4
    0xee, // out dx, al
    0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt; jmp
];
/// What the loop runs for, in virtual time: 30 million turns of four instructions.
const SECONDS: f64 = 0.12;

/// Standard output, events and the report of a run.
fn run(options: &[&str]) -> (Vec<u8>, String, String) {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(CODE, 1 << 20));
    // With an initrd of the user's the console is our input and output.
    let initrd = world.file("initrd", b"070701");
    let [events, report] = ["events", "report"].map(|name| world.path(name));
    let mut command = world.roof();
    command.args(["run", "-q", "--deterministic", "-m", "128M", "--test-devices"]).args(options);
    command.arg("--trace-events").arg(&events).arg("--json").arg(&report);
    command.arg("-i").arg(initrd).arg(kernel).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("roof was built");
    let input = b"what the guest reads byte by byte ".repeat(20);
    child.stdin.take().expect("piped").write_all(&input).expect("it is read to its end");
    let output = child.wait_with_output().expect("roof was started");
    assert!(output.status.code().is_some_and(|code| code & 1 == 1), "{:?}", output.status);
    let read = |path| std::fs::read_to_string(path).expect("it was written");
    (output.stdout, read(events), read(report))
}

/// A field's line in a report.
fn field(report: &str, name: &str) -> String {
    let at = report.find(&format!("\"{name}\"")).expect("the field is there");
    let rest = &report[at..];
    rest[..rest.find(if name == "instructions" { ']' } else { ',' }).expect("more follows")].into()
}

#[test]
fn a_machine_repeats_itself_to_the_instruction() {
    let (output, events, report) = run(&[]);
    assert!(output.windows(12).any(|bytes| bytes.contains(&b'w')), "the input came");
    assert_eq!(output.len(), 300 * 7);
    let count: String =
        field(&report, "instructions").chars().filter(char::is_ascii_digit).collect();
    let count: f64 = count.parse().expect("a number");
    assert!((SECONDS..SECONDS * 1.01).contains(&(count / 1e9)), "{count} instructions");
    for options in [&[][..], &["--engine", "soft,interpret"]] {
        let (again, events_again, report_again) = run(options);
        assert_eq!(output, again, "{options:?}");
        assert_eq!(events, events_again, "{options:?}");
        for name in ["instructions", "event_hash", "events"] {
            assert_eq!(field(&report, name), field(&report_again, name), "{options:?}");
        }
    }
    let (other, ..) = run(&["--seed", "2"]);
    assert_ne!(output, other, "random numbers come from the seed");
}
