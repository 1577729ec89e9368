//! Every way a guest can end has its exit status and its words: tiny kernels that do just that.

mod common;

use std::process::Output;

use common::{World, vmlinux};

/// Runs this code as a kernel.
fn end_of(code: &[u8], options: &[&str]) -> Output {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(code, 1 << 20));
    let mut command = world.roof();
    command.args(["run", "--engine", "soft", "-m", "128M"]).args(options).arg(kernel);
    command.args(["--", "true"]).output().expect("roof was built")
}

fn assert_ends(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "roof said: {said}");
    assert!(said.contains(words), "`{words}` is missing in: {said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains(&format!("exit code {code}")), "the last line is {last}");
    let first = said.lines().next().unwrap_or_default();
    assert!(first.starts_with("roof run --engine soft -c 1 -m 128M "), "the first line is {first}");
}

/// `mov dx, port; mov al, value; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

const HALT: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd]; // cli; hlt; jmp back to hlt

#[test]
fn a_triple_fault_is_an_early_death() {
    // lidt with a limit of 0 from the stack, then ud2
    let code = [0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b];
    assert_ends(&end_of(&code, &[]), 120, "triple-faulted");
}

#[test]
fn a_halt_that_nothing_ends_is_an_early_death() {
    assert_ends(&end_of(HALT, &[]), 120, "halted with interrupts off");
}

#[test]
fn a_reset_is_an_early_death() {
    let code = [out(0xcf9, 6), HALT.to_vec()].concat();
    assert_ends(&end_of(&code, &[]), 120, "reset itself through port 0xcf9");
    let code = [out(0x64, 0xfe), HALT.to_vec()].concat();
    assert_ends(&end_of(&code, &[]), 120, "reset itself through port 0x64");
}

#[test]
fn a_power_off_without_a_status_is_an_early_death() {
    // PM1a control: sleep enable and the type of S5, as a 16-bit write
    let code = [&[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef], HALT].concat();
    assert_ends(&end_of(&code, &[]), 120, "powered off before the command had ended");
}

#[test]
fn a_panic_is_told() {
    let code = [out(0x505, 1), HALT.to_vec()].concat();
    assert_ends(&end_of(&code, &[]), 120, "panicked");
}

#[test]
fn a_panic_s_words_come_from_the_console() {
    let mut code = Vec::new();
    for byte in b"Kernel panic - not syncing: out of ideas\n" {
        code.extend(out(0x3f8, *byte));
    }
    code.extend(out(0x505, 1));
    code.extend(HALT);
    assert_ends(&end_of(&code, &[]), 120, "panicked: out of ideas");
}

#[test]
fn a_loop_ends_with_the_time() {
    assert_ends(&end_of(&[0xeb, 0xfe], &["--timeout", "0.5"]), 124, "the time was up");
}

#[test]
fn a_loop_of_faults_ends_with_the_time() {
    // an IDT whose every entry leads nowhere useful: limit 0xfff at address 0, then int3 for ever
    let code = [0x48, 0x31, 0xc0, 0xcc, 0xeb, 0xfd];
    let output = end_of(&code, &["--timeout", "0.5"]);
    let code = output.status.code();
    assert!(matches!(code, Some(120 | 124)), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn debug_exit_gives_its_own_status() {
    let code = [out(0xf4, 3), HALT.to_vec()].concat();
    assert_ends(&end_of(&code, &["--test-devices"]), 7, "ended itself with 7");
}

#[test]
fn a_guest_that_writes_to_every_port_ends_or_goes_on() {
    // xor edx, edx; loop: mov al, dl; out dx, al; in al, dx; inc dx; jnz loop; hlt for ever
    let code = [&[0x31, 0xd2, 0x88, 0xd0, 0xee, 0xec, 0x66, 0xff, 0xc2, 0x75, 0xf7], HALT].concat();
    let output = end_of(&code, &["--timeout", "20"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 125 && code != 101), "{said}");
    assert!(!said.contains("panicked at"), "{said}");
}

#[test]
fn a_guest_that_writes_to_every_page_of_the_mmio_hole_ends_or_goes_on() {
    // mov edi, 0xc0000000; loop: mov [rdi], edi; mov eax, [rdi]; add edi, 0x1000; jnz loop
    let sweep =
        [0xbf, 0, 0, 0, 0xc0, 0x89, 0x3f, 0x8b, 0x07, 0x81, 0xc7, 0, 0x10, 0, 0, 0x75, 0xf4];
    let output = end_of(&[&sweep, HALT].concat(), &["--timeout", "60"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 125 && code != 101), "{said}");
    assert!(!said.contains("panicked at") && !said.contains("the time was up"), "{said}");
}

#[test]
fn quiet_is_quiet_and_the_report_tells() {
    let world = World::new();
    let kernel = world.file("vmlinux", &vmlinux(&[out(0xf4, 0), HALT.to_vec()].concat(), 1 << 20));
    let report = world.path("report.json");
    let mut command = world.roof();
    command.args(["run", "-q", "--engine", "soft", "--test-devices", "--json"]).arg(&report);
    let output = command.arg(kernel).args(["--", "true"]).output().expect("roof was built");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty() && output.stdout.is_empty());
    let text = std::fs::read_to_string(report).expect("the report was written");
    for field in
        ["\"outcome\": \"debug-exit\"", "\"exit_code\": 1", "\"engine\": \"soft\"", "start_cpu_ms"]
    {
        assert!(text.contains(field), "`{field}` is missing in: {text}");
    }
}
